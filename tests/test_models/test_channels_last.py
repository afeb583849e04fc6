# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Stems that keep channels last: another memory format, the same weights."""
import pytest
import torch
from mmpretrain.registry import MODELS

from autoprog_mm import Subnet

BACKBONES = {
    'deit': dict(type='ElasticDeiT', arch=dict(
        embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=32), img_size=32,
        patch_size=8),
    'volo': dict(type='ElasticVOLO', arch=dict(
        layers=(2, 2, 1, 1), embed_dims=(8, 16, 16, 16), num_heads=(1, 2, 2, 2),
        stem_hidden_dim=4), img_size=32, patch_size=4),
}


def outputs(backbone, images):
    output, = backbone(images)
    return output if isinstance(output, torch.Tensor) else output.class_token


@pytest.mark.parametrize('family', BACKBONES)
def test_another_format_of_the_same_network(family):
    torch.manual_seed(0)
    plain = MODELS.build(BACKBONES[family])
    last = MODELS.build(dict(BACKBONES[family], channels_last=True))
    for backbone in (plain, last):
        backbone.eval()  # which mmpretrain's backbones don't return
    last.load_state_dict(plain.state_dict(), strict=True)
    convolutions = [m for m in last.patch_embed.modules() if isinstance(m, torch.nn.Conv2d)]
    assert convolutions
    for conv in convolutions:
        # Strides of (out, in, height, width), worked out for channels that lie next to each other.
        channels, height, width = conv.weight.shape[1:]
        assert conv.weight.stride() == (channels * height * width, 1, channels * width, channels)
    for subnet in (Subnet(4, 32), Subnet(4 if family == 'deit' else 6, 16)):
        images = torch.randn(2, 3, subnet.resolution, subnet.resolution)
        torch.testing.assert_close(outputs(last, images), outputs(plain, images))


def test_it_is_off_unless_asked_for():
    backbone = MODELS.build(BACKBONES['deit'])
    assert backbone.patch_embed.projection.weight.is_contiguous()
