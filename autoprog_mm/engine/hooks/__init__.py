# Copyright (c) the autoprog_mm authors. All rights reserved.
from .autoprog_hook import AutoProgHook
from .late_runtime_info_hook import LateRuntimeInfoHook
from .mogrow_ema_hook import MoGrowEMAHook
from .run_guard_hook import RunGuardHook
from .safe_checkpoint_hook import SafeCheckpointHook

__all__ = [
    'AutoProgHook', 'LateRuntimeInfoHook', 'MoGrowEMAHook', 'RunGuardHook', 'SafeCheckpointHook'
]
