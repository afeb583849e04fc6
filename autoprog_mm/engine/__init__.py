# Copyright (c) the autoprog_mm authors. All rights reserved.
from .hooks import AutoProgHook, MoGrowEMAHook, RunGuardHook, SafeCheckpointHook
from .loops import ResumableTrainLoop
from .optimizers import AmpMoGrowOptimWrapper, MoGrowOptimWrapper
from .wrappers import ElasticDistributedDataParallel

__all__ = [
    'AmpMoGrowOptimWrapper', 'AutoProgHook', 'ElasticDistributedDataParallel', 'MoGrowEMAHook',
    'MoGrowOptimWrapper', 'ResumableTrainLoop', 'RunGuardHook', 'SafeCheckpointHook'
]
