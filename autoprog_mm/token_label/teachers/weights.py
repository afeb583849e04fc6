# Copyright (c) the autoprog_mm authors. All rights reserved.
"""A teacher's weights, which are data and run nothing."""
import hashlib

import torch
import torch.nn as nn

from ...models import read_weights
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
        return read_weights(path)['state_dict']
    except UserError as error:
        raise UserError(f'The weights of the teacher: {error}') from None


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
