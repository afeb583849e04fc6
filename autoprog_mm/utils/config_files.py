# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Config files, of either style, as configs with names in place of classes."""
import difflib
import inspect
import os.path as osp
from pathlib import Path
from typing import Any, List, Optional, Set

import mmengine.registry
import mmpretrain.registry
from mmengine.config import Config
from mmengine.config.lazy import LazyAttr, LazyObject

from ..registry import GROWTH_OPERATORS
from .errors import UserError, first_cause, one_line

PACKAGE = Path(__file__).parents[1]
INDEX = 'model-index.yml'
_SCOPE = 'mmpretrain'
# What is there without custom_imports.
_LIBRARIES = {'builtins', 'mmcv', 'mmengine', 'mmpretrain', 'torch', 'torchvision'}
_REGISTRIES = [GROWTH_OPERATORS] + [
    part for module in (mmpretrain.registry, mmengine.registry)
    for part in vars(module).values() if isinstance(part, mmengine.registry.Registry)]


def extension() -> Optional[Path]:
    """The folder that has ``configs``, ``tools`` and the model index; None if there is none."""
    # Inside of an installed package, and beside it in a checkout.
    for folder in (PACKAGE / '.mim', PACKAGE.parent):
        if (folder / INDEX).is_file() and (folder / 'configs').is_dir():
            return folder
    return None


def _own_configs() -> List[Path]:
    folder = extension()
    return [] if folder is None else [
        file for file in folder.joinpath('configs').rglob('*.py') if '_base_' not in file.parts]


def read_config(path: str, argument: str = 'config') -> Config:
    """Read a config file.

    Args:
        path (str): The file.
        argument (str): How the user has given it, for the message.
            Defaults to 'config'.

    Returns:
        Config: The config; one of the new style as :func:`with_names` gives it.

    Raises:
        UserError: If it, or one of its bases, is missing or can't be read.
    """
    if osp.isdir(path):
        raise UserError(f'{argument}: {path!r} is a folder, not a config file.')
    if not osp.isfile(path):
        own = {file.name: str(file) for file in _own_configs()}
        near = difflib.get_close_matches(osp.basename(path), own, n=1, cutoff=0.7)
        hint = f' Did you mean {osp.relpath(own[near[0]])}?' if near else ''
        raise UserError(f'{argument}: there is no file {path!r}.{hint}')
    try:
        return with_names(Config.fromfile(path))
    except UserError:
        raise
    except ImportError as error:  # of custom_imports; mmengine lists sys.path, and not the cause
        raise UserError(
            f'{argument}: {path!r} cannot be read: {one_line(first_cause(error))}. Install what is '
            'missing, or name the folder of a module of your own in PYTHONPATH.') from error
    except Exception as error:  # configs are programs, which can raise anything
        raise UserError(f'{argument}: {path!r} cannot be read: {one_line(error)}.'
                        f'{_hint(path)}') from error


def _hint(path: str) -> str:
    """What may be the matter with a config that cannot be parsed."""
    with open(path, encoding='utf-8', errors='replace') as file:
        return " Write variables of the environment as {{'$NAME:default'}}, with quotes inside." \
            if '{{$' in file.read() else ''


def with_names(cfg: Config) -> Config:
    """Write the classes and functions in a config as names, as most configs have them.

    All that looks at a config then sees one kind of it, and what a run saves
    can be read by any tool.

    Args:
        cfg (Config): One of mmengine's new style (``type=ElasticDeiT``), which
            is not changed, or any other.

    Returns:
        Config: Names of mmpretrain's registries, or else dotted ones, in place
        of classes. A config without classes is returned as it is.

    Raises:
        UserError: If what it imports is not there.
    """
    plain = cfg._to_lazy_dict()  # without what was only imported
    # Names hold in this scope only.
    registered = plain.get('default_scope') in (None, _SCOPE)
    modules: Set[str] = set()
    named = _named(plain, '', registered, modules)
    if not modules:
        return cfg
    if registered:
        named['default_scope'] = _SCOPE
    others = {module for module in modules if module.partition('.')[0] not in _LIBRARIES}
    imports = dict(named.get('custom_imports') or {})
    before = imports.get('imports') or []
    before = [before] if isinstance(before, str) else list(before)
    if others - {*before}:
        imports['imports'] = before + sorted(others - {*before})
        named['custom_imports'] = imports
    return Config(named, filename=cfg.filename)


def _named(value: Any, where: str, registered: bool, modules: Set[str]) -> Any:
    """A copy of a part of a config with names; adds the modules that they come from."""
    if isinstance(value, dict):
        return {key: _named(item, f'{where}.{key}' if where else key, registered, modules)
                for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_named(item, f'{where}.{i}', registered, modules)
                           for i, item in enumerate(value))
    if isinstance(value, (LazyObject, LazyAttr)):
        try:
            value = value.build()
        except Exception as error:  # of an import
            raise UserError(f'config: {where}: {error}') from error
    if not (inspect.isclass(value) or inspect.isroutine(value)):
        return value
    # Importing autoprog_mm registers all of its parts.
    module = value.__module__ or 'builtins'
    modules.add('autoprog_mm' if module.startswith('autoprog_mm.') else module)
    name = _registered_name(value) if registered else None
    return name or f'{module}.{value.__qualname__}'


def _registered_name(value: Any) -> Optional[str]:
    """The name by which registries find a class or function; None if they don't."""
    for registry in _REGISTRIES:
        registry.import_from_location()
        child = registry.children.get(_SCOPE)  # whose parts hide those of the same name
        hidden = {} if child is None else child.module_dict
        names = [name for name, other in registry.module_dict.items()
                 if other is value and hidden.get(name, value) is value]
        if names:
            return value.__name__ if value.__name__ in names else names[0]
    return None
