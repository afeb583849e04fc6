# Copyright (c) the autoprog_mm authors. All rights reserved.
"""A VOLO of 18 slots like D1, for images of 32 pixels: 8 x 8 patches and 4 x 4 tokens."""
import re
from contextlib import contextmanager

import autoprog_mm  # noqa: F401  (before timm, which imports torchvision)

# isort: split
import cv2
import numpy as np
import pytest
import torch
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from timm.models import volo as timm_volo

from autoprog_mm.models import ElasticVOLO

MICRO = dict(
    layers=(4, 4, 8, 2), embed_dims=(8, 16, 16, 16), num_heads=(2, 2, 2, 2), stem_hidden_dim=8)
# With a smallest depth of 9 = 2 + 7, the outlookers wake in the order 0 2, 3 1 and the
# transformers in the order 0 2 4 6 8 10 12, 13 11 9 7 5 3 1.
AWAKE = {
    9: ((0, 2), (0, 2, 4, 6, 8, 10, 12)),
    12: ((0, 1, 2, 3), (0, 2, 4, 6, 8, 10, 12, 13)),
    15: ((0, 1, 2, 3), (0, 2, 4, 6, 7, 8, 9, 10, 11, 12, 13)),
    18: ((0, 1, 2, 3), (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13)),
}
NUM_CLASSES = 5


def micro(min_depth=9, arch=MICRO, **kwargs):
    backbone = ElasticVOLO(**{**dict(arch=arch, img_size=32, patch_size=4), **kwargs})
    backbone.min_depth = min_depth
    return randomize(backbone)


@contextmanager
def without_weights():
    """Context in which large networks are built fast, since nothing is drawn."""
    with pytest.MonkeyPatch.context() as patch, torch.device('meta'):
        patch.setattr(torch.nn.Linear, 'reset_parameters', lambda self: None)
        patch.setattr(timm_volo, 'trunc_normal_', lambda *args, **kwargs: None)
        yield


@torch.no_grad()
def randomize(model, std=0.3):
    """Random weights and statistics everywhere: zeros and ones would hide mistakes."""
    model.eval()
    generator = torch.Generator().manual_seed(0)
    for param in model.parameters():
        param.normal_(0 if param.ndim > 1 else 0.5, std, generator=generator)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return model


def slot_places(layers):
    """The name in timm's network of each slot, one list a group."""
    parts = [[f'network.{part + (part > 0)}.{i}' for i in range(number)]
             for part, number in enumerate(layers)]
    return parts[0], sum(parts[1:], [])


def resize_positions(positions, height, width):
    """As OpenCV does it, one channel after the other."""
    channels = [
        cv2.resize(channel.numpy(), (width, height), interpolation=cv2.INTER_CUBIC)
        for channel in positions[0].permute(2, 0, 1)
    ]
    return torch.from_numpy(np.stack(channels, -1))[None]


def timm_twin(elastic, arch, slots, layers, size, patch_size=4, head=None, **kwargs):
    """A timm VOLO that has the awake slots alone, with their weights.

    ``layers`` says how timm splits them; ``size`` is its one image size.
    """
    twin = timm_volo.VOLO(
        **{**arch, 'layers': layers},
        img_size=size,
        patch_size=patch_size,
        num_classes=0 if head is None else head.head.out_features,
        **kwargs)
    weights = {k: v for k, v in elastic.state_dict().items()
               if not re.match(r'network\.[023456]', k)}
    mine = slot_places(arch['layers'])
    for group, (indices, places) in enumerate(zip(slots, slot_places(layers))):
        assert len(indices) == len(places)
        for slot, place in zip(indices, places):
            module = elastic.get_submodule(mine[group][slot])
            for name, value in module.state_dict().items():
                weights[f'{place}.{name}'] = value
    grid = twin.pos_embed.shape[1:3]
    if grid != elastic.pos_embed.shape[1:3]:
        weights['pos_embed'] = resize_positions(elastic.pos_embed.detach(), *grid)
    if head is not None:
        weights.update(head.state_dict())
    weights.pop('awake_subnet', None)
    twin.load_state_dict(weights, strict=True)
    return twin.eval()


def timm_features(twin, images):
    """Class token (B, C) and tokens (B, h * w, C)."""
    features = twin.forward_features(images)
    return features[:, 0], features[:, 1:]


def classifier(mix_token=True, dense_weight=0.5, min_depth=9, **kwargs):
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            data_preprocessor=dict(
                type='ElasticDataPreprocessor', num_classes=NUM_CLASSES, mean=[110.] * 3,
                std=[60.] * 3),
            backbone=dict(
                type='ElasticVOLO', arch=MICRO, img_size=32, patch_size=4, mix_token=mix_token,
                **kwargs),
            head=dict(
                type='VOLOHead', num_classes=NUM_CLASSES, in_channels=16,
                dense_weight=dense_weight)))
    model.backbone.min_depth = min_depth
    return model


def labelled(batch=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (batch, 3, 32, 32), dtype=torch.uint8, generator=generator)
    samples = [DataSample().set_gt_label((2 * i + seed) % NUM_CLASSES) for i in range(batch)]
    return dict(inputs=images, data_samples=samples)
