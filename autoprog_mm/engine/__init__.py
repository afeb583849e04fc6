# Copyright (c) the autoprog_mm authors. All rights reserved.
from .hooks import (
    AutoProgHook,
    CompileHook,
    LateRuntimeInfoHook,
    MicroBatchHook,
    MoGrowEMAHook,
    RunGuardHook,
    SafeCheckpointHook,
)
from .logging import AutoProgLogProcessor
from .loops import ResumableTrainLoop
from .optimizers import AmpMoGrowOptimWrapper, MoGrowOptimWrapper
from .schedulers import CycleCosineLR
from .wrappers import ElasticDistributedDataParallel

__all__ = [
    'AmpMoGrowOptimWrapper', 'AutoProgHook', 'AutoProgLogProcessor', 'CompileHook',
    'CycleCosineLR', 'ElasticDistributedDataParallel', 'LateRuntimeInfoHook', 'MicroBatchHook',
    'MoGrowEMAHook', 'MoGrowOptimWrapper', 'ResumableTrainLoop', 'RunGuardHook',
    'SafeCheckpointHook'
]
