# Copyright (c) the autoprog_mm authors. All rights reserved.
from .autoprog_log_processor import AutoProgLogProcessor

__all__ = ['AutoProgLogProcessor']
