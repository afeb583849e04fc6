# Copyright (c) the autoprog_mm authors. All rights reserved.
"""AutoProg on MMEngine: automated progressive learning for Vision Transformers.

Importing this package registers its parts in mmpretrain's registries, so
``custom_imports=dict(imports=['autoprog_mm'])`` makes them usable in any
mmpretrain config, its configs under ``autoprog_mm::`` and its models by name.
"""
# isort: skip_file
from .compat import define_missing_torchvision_ops

# Before anything that imports torchvision, and mmpretrain does.
define_missing_torchvision_ops()

from .version import __version__  # noqa: E402
from .growth import Subnet  # noqa: E402
from . import datasets, engine, models  # noqa: E402, F401
from .apis import config_path, get_config, overlay, register_configs  # noqa: E402

register_configs()

__all__ = ['Subnet', '__version__', 'config_path', 'get_config', 'overlay']
