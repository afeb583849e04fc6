# Copyright (c) the autoprog_mm authors. All rights reserved.
from .merged_constructor import MergedOptimWrapperConstructor
from .mogrow_optim_wrapper import AmpMoGrowOptimWrapper, MoGrowMixin, MoGrowOptimWrapper

__all__ = [
    'AmpMoGrowOptimWrapper', 'MergedOptimWrapperConstructor', 'MoGrowMixin', 'MoGrowOptimWrapper'
]
