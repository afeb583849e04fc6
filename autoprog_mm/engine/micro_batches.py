# Copyright (c) the autoprog_mm authors. All rights reserved.
"""A training step in several parts, for batches that don't fit into memory."""
import math
from contextlib import nullcontext
from typing import Dict

import torch
import torch.nn as nn
from mmengine.model import is_model_wrapper

from .optimizers import MoGrowMixin


def num_parts(batch_size: int, max_batch: int, share: float) -> int:
    """Into how many parts to split a batch.

    Args:
        batch_size (int): Images of the batch.
        max_batch (int): Images of the full network that fit into memory.
        share (float): Memory that an image takes, as a share of what it takes
            in the full network.

    Returns:
        int: At least 1.
    """
    fitting = max(1, math.floor(max_batch / share + 1e-9))  # 64 / (1 / 3) is a bit below 192
    return math.ceil(batch_size / fitting)


def train_step_in_parts(model: nn.Module, optim_wrapper: MoGrowMixin, data: dict,
                        parts: int) -> Dict[str, torch.Tensor]:
    """Train a step on a batch, of which one part is in memory at a time.

    The batch is preprocessed and mixed as a whole, and the parts' gradients
    add up to those of the mean loss, so the step is that of the whole batch;
    but BatchNorm sees the statistics of each part, and drop path and MixToken
    are drawn for each.

    Args:
        model (Module): The classifier, wrapped or not.
        optim_wrapper (MoGrowOptimWrapper): Updates it.
        data (dict): The collated batch.
        parts (int): How many parts, as equal as they can be.

    Returns:
        dict[str, Tensor]: The losses to log, of the whole batch.
    """
    wrapped = is_model_wrapper(model)
    module = model.module if wrapped else model
    with optim_wrapper.optim_context(module):
        data = module.data_preprocessor(data, True)
    inputs, samples = data['inputs'], data['data_samples']
    total, begin = len(inputs), 0
    logs: Dict[str, torch.Tensor] = {}
    for number, part in enumerate(inputs.tensor_split(parts)):
        last = number == parts - 1
        # Gradients are reduced once, with those of the last part.
        with nullcontext() if last or not wrapped else model.no_sync():
            with optim_wrapper.optim_context(model):
                losses = model(part, samples[begin:begin + len(part)], mode='loss')
            loss, log = module.parse_losses(losses)
            weight = len(part) / total
            if last:
                optim_wrapper.update_params(loss * weight)
            else:
                optim_wrapper.backward_part(loss * weight)
        begin += len(part)
        for name, value in log.items():
            logs[name] = logs.get(name, 0.) + value.detach() * weight
    return logs
