# Copyright (c) the autoprog_mm authors. All rights reserved.
from .bad_images import BadImages
from .classes import check_classes
from .nonfinite import NonFiniteLosses
from .signals import SIGNALS, StopSignals
from .workers import shield_workers

__all__ = [
    'SIGNALS', 'BadImages', 'NonFiniteLosses', 'StopSignals', 'check_classes', 'shield_workers'
]
