# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What ``--cfg-options`` may set in a config."""
import difflib
import logging
from typing import Dict, Mapping

from mmengine.config import Config
from mmengine.logging import print_log

from ..utils.errors import UserError
from .keys import READ, READ_FOR_FOLDERS, walk

# A name that stands for them may take the place of numbers.
_NAMED = ('arch', 'loss_scale')


def check_options(cfg: Config, options: Mapping[str, object], for_folders: bool) -> None:
    """Check that ``--cfg-options`` set what is there and is read, before they are merged.

    Args:
        cfg (Config): As read from its file.
        options (dict): What the command line sets, by dotted keys.
        for_folders (bool): Whether the config is one for a folder of images,
            of which some keys are read that others don't have.

    Raises:
        UserError: Names the key, and the one that was meant, if there is one.
    """
    read = READ | READ_FOR_FOLDERS if for_folders else READ
    whole = cfg.to_dict()
    for key, value in options.items():
        name = key.split('.')[0]
        if name in read:
            _check_place(whole, key, value)
            continue
        places = {path: item for path, item in walk(whole) if path.split('.')[0] in read}
        if name not in whole:
            # Of several places, the one of training.
            last = {path.rpartition('.')[2]: path
                    for path in sorted(places, key=lambda path: path.startswith('train_'))}
            meant = name if name in last else next(
                iter(difflib.get_close_matches(name, [*read, *last], n=1)), None)
            hint = f' Did you mean {meant if meant in read else last[meant]!r}?' if meant else ''
            raise UserError(
                f'--cfg-options {key}: a config has no key {name!r}, so that it would have no '
                f'effect.{hint}')
        old = whole[name]
        same = [path for path, other in places.items() if path.rpartition('.')[2] == name or (
            isinstance(old, (dict, list)) and old and other == old)]
        if same:
            raise UserError(
                f'--cfg-options {key}: {name!r} is a variable of the config file, which is read '
                f'before. Set {" and ".join(same[:3])} instead.')
        print_log(f'--cfg-options {key}: {name!r} is a variable of the config file, which is read '
                  'before. Only a part of your own that looks into the config sees it.',
                  'current', logging.WARNING)


def _check_place(cfg: dict, key: str, value: object) -> None:
    """Check that a setting of the command line has a place in the config."""
    part, names = cfg, key.split('.')
    for i, name in enumerate(names):
        where = '.'.join(names[:i])
        if isinstance(part, (list, tuple)):
            if not name.isdigit() or int(name) >= len(part):
                raise UserError(f'--cfg-options {key}: {where} is a list of {len(part)}, of which '
                                'the first one is 0.')
            part = part[int(name)]
            if not isinstance(part, dict):
                raise UserError(f"--cfg-options {key}: {where} can only be set as a whole, such as "
                                f'"{where}=[...]".')
        elif not isinstance(part, dict):
            raise UserError(f'--cfg-options {key}: {where} is {part!r}, so that it has no '
                            f'{name!r}. Set {where} itself.')
        elif name not in part:
            return  # what gets it says if it has no use for it
        else:
            part = part[name]
    if isinstance(value, str) and names[-1] in _NAMED:
        return
    if isinstance(value, str) and isinstance(part, (bool, int, float)):
        kind = 'True or False' if isinstance(part, bool) else 'a number'
        raise UserError(f'--cfg-options {key}: it is {kind} ({part!r}), but got {value!r}.')
    if isinstance(part, dict) and part and not isinstance(value, dict) and value is not None:
        raise UserError(f'--cfg-options {key}: it is a dict, but got {value!r}. Set what is in it: '
                        f'{", ".join(f"{key}.{name}" for name in part)}.')


def as_whole(cfg: Config, options: Mapping[str, object]) -> Dict[str, object]:
    """Options with which dicts take the place of what is no dict; mmengine wouldn't have it.

    Args:
        cfg (Config): As read from its file.
        options (dict): What :func:`check_options` has checked.
    """
    before = dict(walk(cfg.to_dict()))
    return {key: {'_delete_': True, **value} if isinstance(value, dict) and not isinstance(
        before.get(key, value), dict) else value for key, value in options.items()}
