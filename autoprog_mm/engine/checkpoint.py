# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Checkpoints of plain types, which load with ``weights_only=True``.

mmengine stores log buffers as objects whose unpickling can run code, which
torch refuses to load since 2.6. Here they are stored as tensors and rebuilt.
"""
import logging
import os
import os.path as osp
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log

from ..utils.errors import UserError

_BUFFER = '__history_buffer__'
_RESUMABLE = ('meta', 'state_dict', 'optimizer', 'message_hub')
_LISTED = 5  # parameters, in a message


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
    for key in list(checkpoint):
        checkpoint[key] = to_plain(checkpoint[key], key, left_out)
    if left_out:
        print_log(
            f'Left out of the checkpoint, since it is no plain data: {", ".join(left_out)}.',
            logger='current',
            level=logging.WARNING)


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


# -------------------------------------------------------------------- reading


def load_plain(path: str, mmap: bool = False) -> dict:
    """Load a checkpoint of plain types; no code of it runs.

    Args:
        path (str): The file.
        mmap (bool): Whether to leave tensors on the disk until they are used.
            Defaults to False.

    Returns:
        dict: With a ``state_dict`` of tensors.

    Raises:
        ValueError: If it is missing, holds objects, or is no checkpoint.
    """
    if not osp.isfile(path):
        raise UserError(f'there is no file {path!r}.')
    allowed = torch.serialization.get_safe_globals()  # some of torch's own parts add to it
    torch.serialization.clear_safe_globals()
    try:
        loaded = torch.load(path, map_location='cpu', weights_only=True, mmap=mmap)
    except Exception as error:  # a file that is anything makes torch raise anything
        reason = f'is no whole checkpoint of torch ({type(error).__name__} in reading it)'
        blocked = re.search(r'GLOBAL ([\w.]+)', str(error))
        if blocked is not None:
            reason = (f'holds objects that could run code when loaded ({blocked[1]}), so it was '
                      'not loaded; if you trust it, save its state_dict anew without them')
        raise UserError(f'{path!r} {reason}.') from None
    finally:
        torch.serialization.add_safe_globals(allowed)
    weights = loaded.get('state_dict') if isinstance(loaded, dict) else None
    if not isinstance(weights, dict) or not weights or not all(
            isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in weights.items()):
        raise UserError(
            f"{path!r} is no checkpoint of a run: it has no 'state_dict' of tensors.")
    return loaded


def check_whole(path: str) -> None:
    """Check that a run can be resumed from a checkpoint, whose bits are as written.

    Args:
        path (str): The file.

    Raises:
        ValueError: If it can't; says why.
    """
    try:
        with zipfile.ZipFile(path) as file:
            spoiled = file.testzip()  # torch itself doesn't compare the checksums
    except Exception as error:  # a file that is anything makes zipfile raise anything
        raise UserError(
            f'{path!r} is not whole ({type(error).__name__}: {error}).') from None
    if spoiled is not None:
        raise UserError(f'{path!r} is not whole: the checksum of {spoiled!r} is wrong.')
    loaded = load_plain(path, mmap=True)
    missing = [key for key in _RESUMABLE if key not in loaded]
    if missing:
        raise UserError(
            f'{path!r} has no {" and no ".join(missing)}: it holds weights, as best checkpoints '
            'do, but not the state of a run.')
    meta = loaded['meta']
    if not isinstance(meta, dict) or not all(
            isinstance(meta.get(key), int) for key in ('epoch', 'iter')):
        raise UserError(f"{path!r} is no checkpoint of a run: its 'meta' has no epoch and iter.")


def newest_whole(folder: str, pattern: str) -> Tuple[Optional[str], List[str]]:
    """The checkpoint that was written last, of those that are whole.

    Args:
        folder (str): Where to look.
        pattern (str): Regular expression of the files' names.

    Returns:
        tuple: The path, None if there is none, and why others were passed
        over.
    """
    paths = [osp.join(folder, name) for name in (os.listdir(folder) if osp.isdir(folder) else [])
             if re.fullmatch(pattern, name)]
    passed_over: List[str] = []
    for path in sorted(paths, key=lambda path: (os.stat(path).st_mtime_ns, path), reverse=True):
        try:
            check_whole(path)
        except ValueError as error:
            passed_over.append(str(error))
        else:
            return path, passed_over
    return None, passed_over


def differing_parameters(own: Dict[str, torch.Tensor],
                         weights: Dict[str, torch.Tensor]) -> Optional[str]:
    """How two state dicts differ in names and shapes.

    Args:
        own (dict[str, Tensor]): That of the model.
        weights (dict[str, Tensor]): That of a checkpoint.

    Returns:
        str | None: A few of the differences; None if there are none.
    """
    differing = [f'{name} is {"missing" if name in own else "not in the model"}'
                 for name in sorted(own.keys() ^ weights.keys())]
    differing += [f'{name} is of shape {tuple(weights[name].shape)} instead of {tuple(v.shape)}'
                  for name, v in own.items() if name in weights and weights[name].shape != v.shape]
    if not differing:
        return None
    more = len(differing) - _LISTED
    return ', '.join(differing[:_LISTED]) + (f', and {more} keys more' if more > 0 else '')
