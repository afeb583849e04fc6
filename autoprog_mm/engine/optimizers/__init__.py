# Copyright (c) the autoprog_mm authors. All rights reserved.
from .amp_mogrow_optim_wrapper import AmpMoGrowOptimWrapper
from .finite_steps import FiniteSteps
from .merged_constructor import MergedOptimWrapperConstructor
from .mogrow_optim_wrapper import MoGrowMixin, MoGrowOptimWrapper
from .momentum_copies import MomentumCopies

__all__ = [
    'AmpMoGrowOptimWrapper', 'FiniteSteps', 'MergedOptimWrapperConstructor', 'MoGrowMixin',
    'MoGrowOptimWrapper', 'MomentumCopies'
]
