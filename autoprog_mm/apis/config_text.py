# Copyright (c) the autoprog_mm authors. All rights reserved.
"""A converted config as a file that a person can read: the stock one and what differs."""
import keyword
import math
from typing import Any, Optional

from mmengine.config import Config
from yapf.yapflib.yapf_api import FormatCode

from ..utils.errors import UserError

# In this order, with a comment of each.
_SECTIONS = {
    'custom_imports': None,
    'model': 'The same backbone, with the same checkpoints, that can run a part of itself.',
    'data_preprocessor': 'A search resizes batches on the device.',
    'train_pipeline': 'Crops have the size of the stage, and augmentation its strength.',
    'train_dataloader': None,
    'optim_wrapper': 'It keeps the momentum copies that growth and validation use, and grows.',
    'custom_hooks': 'When the network grows, and how far.',
    'train_cfg': 'A run can be stopped at any step, and goes on there.',
    'default_hooks': 'Checkpoints that a kill cannot spoil; signals, bad images and losses.',
    'log_processor': 'Lines that say what runs, and an ETA that knows what is to come.',
    'model_wrapper_cfg': 'For several GPUs.',
}
_STYLE = dict(
    based_on_style='pep8',
    column_limit=100,
    split_before_first_argument=True,
    each_dict_entry_on_separate_line=True)
_DELETE = '_delete_'


class _Name(str):
    """A variable's name."""


def overrides(before: dict, after: dict) -> dict:
    """What mmengine has to merge into a config to get another one.

    Args:
        before (dict): The config.
        after (dict): The other, with at least the same keys.

    Returns:
        dict: The smallest such dict. Lists are in it as a whole.
    """
    result = {}
    for key, value in after.items():
        old = before.get(key)
        if key in before and old == value:
            continue
        if not isinstance(value, dict) or key not in before:
            result[key] = value
        elif isinstance(old, dict) and old.keys() <= value.keys():
            result[key] = overrides(old, value)
        else:
            result[key] = {_DELETE: True, **value}
    return result


def config_text(base: Optional[str], before: Config, after: Config, title: str) -> str:
    """Write a config as one that is based on another.

    Args:
        base (str | None): What ``_base_`` is to be; None for none.
        before (Config): The config that it stands for; an empty one for none.
        after (Config): The config to write.
        title (str): First lines, which become a comment.

    Returns:
        str: Content of a config file.

    Raises:
        ValueError: For a value that a config file cannot have.
    """
    changes = overrides(before.to_dict(), after.to_dict())
    shared = changes.get('train_pipeline')
    data = changes.get('train_dataloader', {}).get('dataset', {})
    if shared is not None and data.get('pipeline') == shared:
        data['pipeline'] = _Name('train_pipeline')
    lines = [f'# {line}'.rstrip() for line in title.splitlines()]
    text = '\n'.join([*lines, '' if base is None else f'_base_ = {base!r}\n'])
    for key in sorted(changes, key=lambda key: (*_SECTIONS, key).index(key)):
        comment = _SECTIONS.get(key)
        code, _ = FormatCode(f'{key} = {_source(changes[key], key)}\n', style_config=_STYLE)
        text += '\n' + (f'# {comment}\n' if comment else '') + code
    return text


def _source(value: Any, where: str) -> str:
    if isinstance(value, _Name):
        return str(value)
    if isinstance(value, dict):
        items = [(key, _source(item, f'{where}.{key}')) for key, item in value.items()]
        if all(isinstance(key, str) and key.isidentifier() and not keyword.iskeyword(key)
               for key in value):
            return f'dict({", ".join(f"{key}={item}" for key, item in items)})'
        return f'{{{", ".join(f"{key!r}: {item}" for key, item in items)}}}'
    if isinstance(value, (list, tuple)):
        items = [_source(item, f'{where}.{i}') for i, item in enumerate(value)]
        inside = ', '.join(items)
        if isinstance(value, list):
            return f'[{inside}]'
        return f'({inside},)' if len(items) == 1 else f'({inside})'
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    if value is None or isinstance(value, (str, int, float)):
        return repr(value)
    raise UserError(f'{where} is {value!r}, which cannot be written into a config file.')
