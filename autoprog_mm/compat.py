# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Ways round what is broken between today's releases of our dependencies."""
import importlib.util
import inspect
from pathlib import Path

import torch

# Kept for the life of the process: dropping a Library removes its schemas.
_TORCHVISION_SCHEMAS = None


def define_missing_torchvision_ops() -> bool:
    """Make ``import torchvision`` work where its compiled operators can't load.

    The torchvision wheels of the package index are built against CUDA. On a
    CPU build of torch their binary does not load, and the import dies on the
    missing operator ``torchvision::nms``. Defining the schemas lets the Python
    parts import; calling one of the operators still fails, as it should.

    Returns:
        bool: True if the schemas had to be defined, False if torchvision is
        absent or its binary loads.
    """
    global _TORCHVISION_SCHEMAS
    spec = importlib.util.find_spec('torchvision')
    if spec is None or _TORCHVISION_SCHEMAS is not None:
        return _TORCHVISION_SCHEMAS is not None
    for folder in spec.submodule_search_locations:
        binaries = [
            path for path in Path(folder).glob('_C.*') if path.suffix in ('.so', '.pyd')
        ]
        for binary in binaries:
            try:
                torch.ops.load_library(str(binary))
                return False
            except OSError:
                continue
    library = torch.library.Library('torchvision', 'DEF')
    for op in ('nms', 'qnms'):
        library.define(f'{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
    _TORCHVISION_SCHEMAS = library
    return True


def give_adjust_bbox_a_renderer() -> bool:
    """Make mmpretrain's ``browse_dataset.py`` work with today's matplotlib.

    It calls a function of matplotlib that wants a renderer since 3.11, and
    doesn't give one.

    Returns:
        bool: True if the function had to be changed.
    """
    from matplotlib import _tight_bbox  # only tools that draw need it
    wanted = inspect.signature(_tight_bbox.adjust_bbox).parameters.get('renderer')
    if wanted is None or wanted.default is not inspect.Parameter.empty:
        return False
    original = _tight_bbox.adjust_bbox

    def adjust_bbox(fig, bbox_inches, renderer=None, fixed_dpi=None):
        return original(fig, bbox_inches, renderer or fig.canvas.get_renderer(), fixed_dpi)

    _tight_bbox.adjust_bbox = adjust_bbox
    return True
