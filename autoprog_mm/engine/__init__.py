# Copyright (c) the autoprog_mm authors. All rights reserved.
from .hooks import (
    AutoProgHook,
    LateRuntimeInfoHook,
    MoGrowEMAHook,
    RunGuardHook,
    SafeCheckpointHook,
)
from .logging import AutoProgLogProcessor
from .loops import ResumableTrainLoop
from .optimizers import AmpMoGrowOptimWrapper, MoGrowOptimWrapper
from .wrappers import ElasticDistributedDataParallel

__all__ = [
    'AmpMoGrowOptimWrapper', 'AutoProgHook', 'AutoProgLogProcessor',
    'ElasticDistributedDataParallel', 'LateRuntimeInfoHook', 'MoGrowEMAHook',
    'MoGrowOptimWrapper', 'ResumableTrainLoop',
    'RunGuardHook', 'SafeCheckpointHook'
]
