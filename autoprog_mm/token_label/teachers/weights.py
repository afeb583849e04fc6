# Copyright (c) the autoprog_mm authors. All rights reserved.
"""A teacher's weights, which are data and run nothing."""
import hashlib
from pickle import UnpicklingError

import torch
import torch.nn as nn

from ...utils.errors import UserError

# A fingerprint looks at about so many values of each tensor.
_SAMPLES = 64


def load_weights(path: str) -> dict:
    """Load a state dict without running anything that a file may hold.

    Args:
        path (str): Of a file, or an ``http(s)://`` or ``file://`` address. The
            weights may be under the key ``'state_dict'`` (mmengine, timm) or
            ``'model'``, and all names may begin with ``'module.'``.

    Returns:
        dict[str, Tensor]: The weights.

    Raises:
        ValueError: If the file is missing or can't be read, or has no weights.
    """
    try:
        if '://' in path:
            state = torch.hub.load_state_dict_from_url(path, map_location='cpu', weights_only=True)
        else:
            state = torch.load(path, map_location='cpu', weights_only=True)
    except FileNotFoundError:
        raise UserError(f'--checkpoint: there is no file {path!r}.') from None
    except UnpicklingError as error:
        raise UserError(
            f'The checkpoint {path!r} is not a file of plain weights ({_shorten(str(error))}). If '
            'you trust it, keep only its weights: torch.save(torch.load(OLD, weights_only=False)'
            "['state_dict'], NEW).") from error
    except Exception as error:  # of a file that is none of torch's, it may be any
        raise UserError(
            f'The checkpoint {path!r} cannot be read ({type(error).__name__}: '
            f'{_shorten(str(error))}).') from error
    for key in ('state_dict', 'model'):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
            break
    if not isinstance(state, dict) or not state or \
            not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(
            f'The checkpoint {path!r} has no weights: it must be a dict of tensors, or have one '
            "under the key 'state_dict'.")
    if all(name.startswith('module.') for name in state):  # of DataParallel
        state = {name[len('module.'):]: value for name, value in state.items()}
    return state


def weights_fingerprint(state: dict) -> str:
    """Tell weights from others, by some values of each tensor.

    Args:
        state (dict[str, Tensor]): The weights.

    Returns:
        str: 16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        flat = state[name].detach().cpu().flatten()
        digest.update(f'{name} {tuple(state[name].shape)} {flat.dtype}'.encode())
        sample = flat[::max(1, flat.numel() // _SAMPLES)].contiguous()
        digest.update(sample.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def load_strictly(model: nn.Module, state: dict, problem: str) -> None:
    """Load weights, of which none may be missing or left over.

    Args:
        model (nn.Module): What they are loaded into.
        state (dict[str, Tensor]): The weights.
        problem (str): Beginning of the error's message.

    Raises:
        ValueError: If they don't fit.
    """
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:  # torch's list of names
        lines = [_shorten(line.strip()) for line in str(error).splitlines()[1:]]
        more = f' ... and {len(lines) - 6} more.' if len(lines) > 6 else ''
        raise UserError(f'{problem}: {" ".join(lines[:6])}{more}') from None


def _shorten(text: str, length: int = 300) -> str:
    text = ' '.join(text.split())
    return text if len(text) <= length else f'{text[:length]} ...'
