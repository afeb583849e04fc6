# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Reading files of torch; nothing in them runs."""
import logging
import os
import os.path as osp
import re
import zipfile
from pickle import UnpicklingError
from typing import Any, Optional
from urllib.parse import urlparse

import torch
from mmengine.logging import print_log
from torch.serialization import get_unsafe_globals_in_checkpoint

from .errors import UserError

_WRAPPED = re.compile(r'^((module|_orig_mod)\.)+')  # names in DataParallel, and compiled
_AVERAGES = ('model_ema', 'state_dict_ema')  # of DeiT and timm; mmengine's are in state_dict


class _LeftOut:
    """Stands for an object whose own class is not looked up: takes anything, does nothing."""

    def __new__(cls, *args, **kwargs) -> '_LeftOut':
        return super().__new__(cls)

    def __init__(self, *args, **kwargs) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def load_file(path: str, map_location: Any = 'cpu', mmap: bool = False,
              leave_out_objects: bool = False) -> Any:
    """Load a file of torch with an empty allow-list.

    Args:
        path (str): The file.
        map_location (Any): As of ``torch.load``. Defaults to the CPU.
        mmap (bool): Whether to leave tensors on the disk until they are used,
            where the file's format allows it. Defaults to False.
        leave_out_objects (bool): Of a dict with objects of classes, such as
            mmengine's log buffers, whether to leave out the entries that hold
            some. Nothing of them is looked up or called. Defaults to False,
            such a file is refused.

    Raises:
        UserError: If it is missing, not whole, or holds objects.
    """
    path = osp.expanduser(path)
    if not osp.isfile(path):
        raise UserError(f'there is no file {path!r}.')
    mmap = mmap and zipfile.is_zipfile(path)  # as torch has written them since 1.6
    allowed = torch.serialization.get_safe_globals()  # some of torch's own parts add to it
    torch.serialization.clear_safe_globals()
    refusal = ''
    try:
        try:
            return torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
        except UnpicklingError as error:
            refusal = str(error)
            if not leave_out_objects:
                raise
        names = get_unsafe_globals_in_checkpoint(path)
        with torch.serialization.safe_globals([(_LeftOut, name) for name in names]):
            loaded = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
        return {key: value for key, value in loaded.items() if not _holds_objects(value)}
    except Exception as error:  # a file that is anything makes torch raise anything
        reason = f'is no whole checkpoint of torch ({type(error).__name__} in reading it)'
        blocked = re.search(r'GLOBAL ([\w.]+)', refusal)
        if blocked is not None:
            reason = (
                f'holds objects that could run code when loaded ({blocked[1]}), so it was not '
                'loaded; if you trust it, keep only its weights: torch.save(dict(state_dict='
                "torch.load(OLD, weights_only=False)['state_dict']), NEW)")
        raise UserError(f'{path!r} {reason}.') from None
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(allowed)


def load_weights(path: str, map_location: Any = 'cpu', mmap: bool = False) -> dict:
    """Load a checkpoint for its weights, be it ours or of another library.

    Args:
        path (str): The file. The weights may be under ``'state_dict'``
            (mmengine, timm) or ``'model'`` (DeiT), or be all of it; names may begin
            with ``'module.'`` or ``'_orig_mod.'``.
        map_location (Any): As of ``torch.load``. Defaults to the CPU.
        mmap (bool): Whether to leave tensors on the disk until they are used.
            Defaults to False.

    Returns:
        dict: The checkpoint, with the weights under ``'state_dict'``. Entries that hold
        objects are left out.

    Raises:
        UserError: If it is missing or not whole, or has no weights.
    """
    loaded = load_file(path, map_location, mmap, leave_out_objects=True)
    for key in ('state_dict', 'model', None):
        weights = loaded if key is None else loaded.get(key) if isinstance(loaded, dict) else None
        if isinstance(weights, dict) and any(isinstance(v, torch.Tensor) for v in weights.values()):
            break
    else:
        raise UserError(f"{path!r} has no weights: it must be a dict of tensors, or have one under "
                        "'state_dict' or 'model'.")
    checkpoint = {} if key is None else {k: v for k, v in loaded.items() if k != key}
    averaged = [name for name in _AVERAGES if name in checkpoint]
    if averaged:
        print_log(f'{path!r} has {" and ".join(averaged)}, too; the weights under {key!r} are '
                  'taken. For others, save them in a file of their own.', 'current',
                  logging.WARNING)
    if any(_WRAPPED.match(name) for name in weights):  # mmengine cuts one off, in some places
        weights = {_WRAPPED.sub('', name): value for name, value in weights.items()}
    return dict(checkpoint, state_dict=weights)


def download(url: str, folder: Optional[str] = None) -> str:
    """Download a file, unless it is there.

    Args:
        url (str): Its address.
        folder (str, optional): Where to. Defaults to torch's cache.

    Returns:
        str: Its path.
    """
    folder = folder or osp.join(torch.hub.get_dir(), 'checkpoints')
    path = osp.join(folder, osp.basename(urlparse(url).path))
    if not osp.isfile(path):
        os.makedirs(folder, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, path, progress=False)
        except OSError as error:
            raise UserError(f'{url} cannot be downloaded ({error}): download it by other means, '
                            'and give the path of the file.') from error
    return path


def _holds_objects(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_objects, value)) or any(map(_holds_objects, value.values()))
    if isinstance(value, (list, tuple, set)):
        return any(map(_holds_objects, value))
    return isinstance(value, _LeftOut)
