# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Reading checkpoints: without running code, and only where they are whole."""
import os
import os.path as osp
import re
import zipfile
from logging import Logger
from typing import List, Optional, Sequence, Tuple

import torch

from ...utils.errors import UserError
from ...utils.torch_files import load_file

_RESUMABLE = ('meta', 'state_dict', 'optimizer', 'message_hub')


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
    loaded = load_file(path, mmap=mmap)
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
    if not osp.isfile(path):
        raise UserError(f'there is no file {path!r}.')
    try:
        with zipfile.ZipFile(path) as file:
            spoiled = file.testzip()  # torch itself doesn't compare the checksums
    except Exception as error:  # a file that is anything makes zipfile raise anything
        raise UserError(
            f'{path!r} is not whole ({type(error).__name__}: {error}).') from None
    if spoiled is not None:
        raise UserError(f'{path!r} is not whole: the checksum of {spoiled!r} is wrong.')
    check_resumable(path)


def check_resumable(path: str) -> None:
    """Check that a checkpoint has all that a run is resumed from; not each bit of it.

    Args:
        path (str): The file.

    Raises:
        ValueError: If it hasn't; says what is missing.
    """
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


def choose_checkpoint(given: Optional[str], folder: str, templates: Sequence[str],
                      logger: Logger) -> Optional[str]:
    """The checkpoint that a run is to be resumed from.

    Args:
        given (str, optional): The one that was asked for.
        folder (str): Where to look otherwise.
        templates (Sequence[str]): Of names, such as ``'epoch_{}.pth'``.
        logger (Logger): Is told what was passed over.

    Returns:
        str | None: Its path; None to start anew.

    Raises:
        ValueError: If the one that was asked for isn't whole, or there are
            some and none is.
    """
    if given is not None:
        if '://' not in given:
            try:
                check_whole(given)
            except ValueError as error:
                raise UserError(
                    f'Cannot resume: {error} To take the newest whole checkpoint of the work '
                    'directory, give --resume no path (load_from=None).') from None
        return given
    # mmengine formats any template, such as 'epoch_{:03d}.pth'.
    names = '|'.join(re.sub(r'\\\{.*?\\\}', r'\\d+', re.escape(template))
                     for template in templates)
    path, passed_over = newest_whole(folder, names)
    for reason in passed_over:
        logger.warning(f'Passed over a checkpoint: {reason}')
    if path is None and passed_over:
        raise UserError(
            f'Cannot resume: none of the checkpoints in {folder!r} is whole: '
            f'{" ".join(passed_over)} Move them away to start anew.')
    if path is None:
        logger.warning(
            f'There is no checkpoint in {folder!r} to resume from: the run starts anew.')
    return path
