# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What a training step keeps in memory, found out without a GPU."""
from typing import Dict, Tuple

import torch
import torch.nn as nn

from ..growth.subnet import Subnet


def saved_bytes(model: nn.Module, subnet: Subnet, batch_size: int = 1) -> int:
    """Bytes that a forward pass keeps for the backward pass.

    They are counted in a forward pass in the weights' type, or as autocast has
    it, without the parameters. It disturbs no buffers.

    Args:
        model (Module): A classifier with an elastic backbone.
        subnet (Subnet): What runs; awake at least.
        batch_size (int): Images of the pass. Defaults to 1.

    Returns:
        int: The bytes.
    """
    parameter = next(model.parameters())
    known = {p.untyped_storage().data_ptr() for p in model.parameters()}
    sizes: Dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    channels = next(m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d))
    images = torch.zeros(batch_size, channels, subnet.resolution, subnet.resolution,
                         dtype=parameter.dtype, device=parameter.device)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    training = [(module, module.training) for module in model.modules()]
    model.train()
    try:
        with model.backbone.activated(subnet), \
                torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            # Held until all is counted, so that no storage takes another's place.
            scores = torch.func.functional_call(model, buffers, (images, ))
        del scores
    finally:
        for module, mode in training:
            module.training = mode
    return sum(sizes.values())


def step_bytes(model: nn.Module, subnet: Subnet, copies: int = 1) -> Tuple[int, int]:
    """Bytes that a training step takes, by estimate.

    Args:
        model (Module): A classifier with an elastic backbone.
        subnet (Subnet): What runs; it alone is awake.
        copies (int): Of the weights: the model's, and those of momentum.
            Defaults to 1.

    Returns:
        tuple[int, int]: Those of any batch, with gradients and two moments of
        what is awake, all in float32; and those of each image.
    """
    weights = sum(p.numel() for p in model.parameters())
    awake = sum(p.numel() for p in model.parameters() if p.requires_grad)
    one, two = (saved_bytes(model, subnet, number) for number in (1, 2))
    image = two - one
    return 4 * (copies * weights + 3 * awake) + max(0, one - image), image
