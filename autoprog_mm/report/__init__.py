# Copyright (c) the autoprog_mm authors. All rights reserved.
from ..record.reading import read_run
from ..record.run import Run
from .compare import check_comparable, gain, speed_up
from .page import build_page
from .pictures import save_picture

__all__ = [
    'Run', 'build_page', 'check_comparable', 'gain', 'read_run', 'save_picture', 'speed_up'
]
