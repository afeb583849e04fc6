# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Checkpoints of plain types, which load with ``weights_only=True``.

mmengine stores log buffers as objects whose unpickling can run code, which
torch refuses to load since 2.6. Here they are stored as tensors and rebuilt.
"""
import logging
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, List

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log

_BUFFER = '__history_buffer__'


def to_plain(value: Any, path: str = '', left_out: List[str] = None) -> Any:
    """Convert to what ``torch.load(weights_only=True)`` reads with an empty allow-list.

    Args:
        value (Any): A tree of dicts, lists and leaves.
        path (str): Where in the tree ``value`` is, for messages.
        left_out (list[str], optional): Gets the paths of what can't be
            converted; such a value becomes None.

    Returns:
        Any: The same tree of plain types. Ordered dicts of tensors stay as
        they are.
    """
    if value is None or isinstance(value, torch.Tensor) or \
            type(value) in (bool, int, float, str, bytes):
        return value
    if isinstance(value, HistoryBuffer):
        log, count = value.data
        return {
            _BUFFER: value.max_length,
            'log': torch.as_tensor(np.asarray(log, dtype=np.float64)),
            'count': torch.as_tensor(np.asarray(count))
        }
    if isinstance(value, np.ndarray) and value.dtype.kind in 'biuf':
        return torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (bool, int, float, str)):  # subclasses of plain types
        return next(t(value) for t in (bool, int, float, str) if isinstance(value, t))
    if isinstance(value, Mapping):
        items = [(to_plain(k, path, left_out), to_plain(v, f'{path}.{k}', left_out))
                 for k, v in value.items()]
        if not isinstance(value, OrderedDict):
            return dict(items)
        result = OrderedDict(items)
        if hasattr(value, '_metadata'):  # of a module's state dict
            result._metadata = value._metadata
        return result
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [to_plain(v, f'{path}[{i}]', left_out) for i, v in enumerate(value)]
        return items if isinstance(value, list) else \
            tuple(items) if isinstance(value, tuple) else set(items)
    if isinstance(value, (torch.dtype, torch.device)):
        return value
    if left_out is not None:
        left_out.append(f'{path} ({type(value).__name__})')
    return None


def pack(checkpoint: dict) -> None:
    """Make a checkpoint that mmengine is about to save plain, in place.

    Args:
        checkpoint (dict): The checkpoint. What can't be made plain is left
            out with a warning.
    """
    left_out: List[str] = []
    _leave_functions_out(checkpoint.get('param_schedulers') or [])
    for key in list(checkpoint):
        checkpoint[key] = to_plain(checkpoint[key], key, left_out)
    if left_out:
        print_log(
            f'Left out of the checkpoint, since it is no plain data: {", ".join(left_out)}.',
            logger='current',
            level=logging.WARNING)


def _leave_functions_out(schedulers: Any) -> None:
    """Functions of schedulers, such as ``OneCycleLR``'s, are built anew on a resume."""
    lists = schedulers.values() if isinstance(schedulers, dict) else [schedulers]
    for state in (state for states in lists for state in states):
        for key in [key for key, value in state.items() if callable(value)]:
            del state[key]


def unpack(checkpoint: dict) -> None:
    """Rebuild what :func:`pack` made plain, in place, and drop what could run.

    Args:
        checkpoint (dict): As loaded, before mmengine looks at it.
    """
    hub = checkpoint.get('message_hub')
    if isinstance(hub, dict):
        scalars = hub.get('log_scalars', {})
        for key, value in scalars.items():
            if isinstance(value, dict) and _BUFFER in value:
                scalars[key] = HistoryBuffer(
                    value['log'].tolist(), value['count'].tolist(), value[_BUFFER])
    # mmengine's resume would execute this text as Python. It only compares
    # the number of GPUs of mmcv 1.x runs with it.
    checkpoint.get('meta', {}).pop('config', None)
