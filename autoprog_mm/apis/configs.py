# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Our configs and models, by name and from any folder."""
import difflib
from pathlib import Path
from typing import List

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmpretrain.apis import ModelHub

from ..utils.config_files import INDEX, PACKAGE, extension
from ..utils.errors import UserError


def register_configs() -> None:
    """Tell mmengine and mmpretrain where our configs and models are.

    From then on ``_base_ = 'autoprog_mm::autoprog/deit-s_in1k.py'`` works in
    configs, and ``mmpretrain.get_model('deit-s_in1k')`` for all of our models.
    Importing ``autoprog_mm`` does it.
    """
    # Not the name of our distribution. mmengine would look for our files where
    # that is installed, which for an editable installation is another folder;
    # where a module is, and so the package, Python itself knows.
    MODULE2PACKAGE['autoprog_mm'] = 'autoprog_mm.version'
    folder = extension()
    if folder is not None:
        ModelHub.register_model_index(folder / INDEX, config_prefix=folder)


def _names(configs: Path) -> List[str]:
    return sorted(path.relative_to(configs).as_posix() for path in configs.rglob('*.py'))


def config_path(name: str) -> str:
    """Where one of our config files is.

    A config that is read by a program which doesn't import ``autoprog_mm``
    first can begin with
    ``_base_ = __import__('autoprog_mm').config_path('autoprog/deit-s_in1k.py')``.

    Args:
        name (str): Path below ``configs/``, such as
            ``'autoprog/deit-s_in1k.py'``.

    Returns:
        str: Absolute path.

    Raises:
        ValueError: If there is no such config.
    """
    folder = extension()
    if folder is None:
        raise UserError(
            f'The configs of autoprog_mm are neither in {PACKAGE / ".mim"} nor beside the '
            'package. Install it with pip, or use a whole checkout.')
    configs = folder / 'configs'
    names = _names(configs)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        known = ', '.join(near or [other for other in names if not other.startswith('_base_')])
        raise UserError(f'autoprog_mm has no config {name!r}. Did you mean one of: {known}?')
    return str(configs / name)


def get_config(name: str) -> Config:
    """Read one of our configs, with all that it is based on.

    Args:
        name (str): Path below ``configs/``, such as
            ``'autoprog/deit-s_in1k.py'``.

    Returns:
        Config: The config.

    Raises:
        ValueError: If there is no such config.
    """
    return Config.fromfile(config_path(name))
