# Copyright (c) the autoprog_mm authors. All rights reserved.
"""ElasticDeiT against timm's DeiT, which shares no code with mmpretrain's."""
import re

import pytest
import timm
import torch

from autoprog_mm import Subnet
from autoprog_mm.models import ElasticDeiT

NAMES = (
    (r'patch_embed\.projection', 'patch_embed.proj'),
    (r'^ln1', 'norm'),
    (r'layers\.(\d+)\.ln(\d)', r'blocks.\1.norm\2'),
    (r'layers\.(\d+)\.attn', r'blocks.\1.attn'),
    (r'layers\.(\d+)\.ffn\.layers\.0\.0', r'blocks.\1.mlp.fc1'),
    (r'layers\.(\d+)\.ffn\.layers\.1', r'blocks.\1.mlp.fc2'),
)


def timm_name(name):
    for ours, theirs in NAMES:
        name = re.sub(ours, theirs, name)
    return name


@pytest.mark.parametrize('depth', [6, 12])
def test_features_equal_timms(depth):
    elastic = ElasticDeiT(arch='deit-tiny', img_size=64, patch_size=16)
    torch.manual_seed(0)
    for param in elastic.parameters():
        torch.nn.init.normal_(param, std=0.05)
    elastic.min_depth = 6
    elastic.set_subnet(Subnet(depth, 64))
    theirs = timm.create_model('deit_tiny_patch16_224', img_size=64, num_classes=0, depth=depth)

    place = {slot: i for i, slot in enumerate(elastic.awake_slots[0])}
    weights, state = {}, elastic.state_dict()
    state.pop('awake_subnet', None)
    for name, value in state.items():
        match = re.match(r'layers\.(\d+)\.(.*)', name)
        if match is not None:
            if int(match[1]) not in place:
                continue
            name = f'layers.{place[int(match[1])]}.{match[2]}'
        weights[timm_name(name)] = value
    theirs.load_state_dict(weights, strict=True)

    for module in (elastic, theirs):
        module.eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(elastic(images)[0], theirs(images), rtol=1e-4, atol=1e-4)
