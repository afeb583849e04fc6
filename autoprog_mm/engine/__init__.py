# Copyright (c) the autoprog_mm authors. All rights reserved.
from .hooks import AutoProgHook, MoGrowEMAHook, SafeCheckpointHook
from .optimizers import AmpMoGrowOptimWrapper, MoGrowOptimWrapper

__all__ = [
    'AmpMoGrowOptimWrapper', 'AutoProgHook', 'MoGrowEMAHook', 'MoGrowOptimWrapper',
    'SafeCheckpointHook'
]
