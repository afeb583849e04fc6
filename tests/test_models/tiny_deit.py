# Copyright (c) the autoprog_mm authors. All rights reserved.
"""A DeiT of 8 layers, for images of 32 pixels."""
import torch
from mmcv.cnn.bricks import DropPath

from autoprog_mm.models import ElasticDeiT

# With a smallest depth of 4, the 8 slots wake in the order 0 2 4 6, 7 5 3 1.
AWAKE = {
    4: (0, 2, 4, 6),
    5: (0, 2, 4, 6, 7),
    6: (0, 2, 4, 5, 6, 7),
    7: (0, 2, 3, 4, 5, 6, 7),
    8: (0, 1, 2, 3, 4, 5, 6, 7),
}


def tiny_cfg(num_layers=8, **kwargs):
    arch = dict(embed_dims=16, num_layers=num_layers, num_heads=2, feedforward_channels=32)
    return {**dict(arch=arch, img_size=32, patch_size=4), **kwargs}


def tiny(min_depth=4, **kwargs):
    backbone = ElasticDeiT(**tiny_cfg(**kwargs))
    backbone.min_depth = min_depth
    return randomize(backbone)


@torch.no_grad()
def randomize(model, std=0.1):
    """Random weights everywhere: what is initialised to zero would hide mistakes."""
    model.eval()  # without drop path, unless a test asks for it
    torch.manual_seed(0)
    for param in model.parameters():
        param.normal_(0 if param.ndim > 1 else 0.2, std)
    return model


def drop_path_rates(slots):
    return [m.drop_prob for slot in slots for m in slot.modules() if isinstance(m, DropPath)]
