# Copyright (c) the autoprog_mm authors. All rights reserved.
"""One reader of weights for all: load_from, init_cfg, tests, get_model, export, teachers."""
from typing import Any, Optional

import torch
from mmengine.dist import barrier, get_rank
from mmengine.runner.checkpoint import CheckpointLoader

from ..utils.errors import UserError
from ..utils.torch_files import download, load_weights
from .saved_subnet import SAVED_SUBNET

STATE = 'autoprog'  # of AutoProgHook, in a checkpoint
# What was awake, among a classifier's weights.
SAVED_IN_MODEL = f'backbone.{SAVED_SUBNET}'


def read_weights(path: str, map_location: Any = 'cpu', mmap: bool = False) -> dict:
    """Load a checkpoint for its weights, which say what was awake.

    Args:
        path (str): The file, see :func:`load_weights`, or an address.
        map_location (Any): As of ``torch.load``. Defaults to the CPU.
        mmap (bool): Whether to leave tensors on the disk until they are used.
            Defaults to False.

    Returns:
        dict: The checkpoint, with the weights under ``'state_dict'``.

    Raises:
        UserError: If it is missing or not whole, or has no weights.
    """
    path = str(path)
    if '://' in path:
        path = download(path)
    checkpoint = load_weights(path, map_location, mmap)
    weights, state = checkpoint['state_dict'], checkpoint.get(STATE)
    if state is not None and SAVED_IN_MODEL not in weights:
        # Older checkpoints say it in the hook's state only. The last stage is the full network.
        try:
            (depth, resolution), stages = state['subnet'], state['stages']
            if depth < stages[-1][2]:
                weights[SAVED_IN_MODEL] = torch.tensor([depth, resolution, stages[0][2]])
        except (KeyError, TypeError, ValueError, IndexError):
            raise UserError(f'{path!r} does not say what was awake: its {STATE!r} state names no '
                            'subnet.') from None
    return checkpoint


# mmengine reads all weights through these, by the beginning of a path. Its own give files to
# torch as they are, and so refuse its own checkpoints, or run what is in a downloaded one.


@CheckpointLoader.register_scheme(prefixes='', force=True)
def load_from_local(filename: str, map_location: Any = 'cpu') -> dict:
    return read_weights(filename, map_location or 'cpu')


@CheckpointLoader.register_scheme(prefixes=('http://', 'https://'), force=True)
def load_from_http(filename: str, map_location: Any = 'cpu', model_dir: Optional[str] = None,
                   **_) -> dict:
    path = download(filename, model_dir) if get_rank() == 0 else None
    barrier()
    return read_weights(path or download(filename, model_dir), map_location or 'cpu')
