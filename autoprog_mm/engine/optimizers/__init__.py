# Copyright (c) the autoprog_mm authors. All rights reserved.
from .mogrow_optim_wrapper import AmpMoGrowOptimWrapper, MoGrowMixin, MoGrowOptimWrapper

__all__ = ['AmpMoGrowOptimWrapper', 'MoGrowMixin', 'MoGrowOptimWrapper']
