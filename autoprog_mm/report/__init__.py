# Copyright (c) the autoprog_mm authors. All rights reserved.
from .compare import check_comparable, gain, speed_up
from .page import build_page
from .reading import read_run
from .run import ReportError, Run

__all__ = [
    'ReportError', 'Run', 'build_page', 'check_comparable', 'gain', 'read_run', 'speed_up'
]
