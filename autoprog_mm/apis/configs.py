# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Our configs and models, by name and from any folder."""
import difflib
from pathlib import Path
from typing import List, Optional

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmpretrain.apis import ModelHub

from ..utils.errors import UserError

_PACKAGE = Path(__file__).parents[1]
_INDEX = 'model-index.yml'


def _extension() -> Optional[Path]:
    """The folder that has ``configs``, ``tools`` and the model index."""
    # Inside of an installed package, and beside it in a checkout.
    for folder in (_PACKAGE / '.mim', _PACKAGE.parent):
        if (folder / _INDEX).is_file() and (folder / 'configs').is_dir():
            return folder
    return None


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
    extension = _extension()
    if extension is not None:
        ModelHub.register_model_index(extension / _INDEX, config_prefix=extension)


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
    extension = _extension()
    if extension is None:
        raise UserError(
            f'The configs of autoprog_mm are neither in {_PACKAGE / ".mim"} nor beside the '
            'package. Install it with pip, or use a whole checkout.')
    configs = extension / 'configs'
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
