# Copyright (c) the autoprog_mm authors. All rights reserved.
from .autoprog_hook import AutoProgHook
from .mogrow_ema_hook import MoGrowEMAHook
from .run_guard_hook import RunGuardHook
from .safe_checkpoint_hook import SafeCheckpointHook

__all__ = ['AutoProgHook', 'MoGrowEMAHook', 'RunGuardHook', 'SafeCheckpointHook']
