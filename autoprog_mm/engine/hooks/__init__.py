# Copyright (c) the autoprog_mm authors. All rights reserved.
from .autoprog_hook import AutoProgHook
from .compile_hook import CompileHook
from .late_runtime_info_hook import LateRuntimeInfoHook
from .micro_batch_hook import MicroBatchHook
from .mogrow_ema_hook import MoGrowEMAHook
from .run_guard_hook import RunGuardHook
from .safe_checkpoint_hook import SafeCheckpointHook

__all__ = [
    'AutoProgHook', 'CompileHook', 'LateRuntimeInfoHook', 'MicroBatchHook', 'MoGrowEMAHook',
    'RunGuardHook', 'SafeCheckpointHook'
]
