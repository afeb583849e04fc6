# Copyright (c) the autoprog_mm authors. All rights reserved.
"""ElasticVOLO against timm's VOLO."""
import autoprog_mm  # noqa: F401  (before timm, which imports torchvision)

# isort: split
import re

import pytest
import timm
import torch
from mmpretrain.registry import MODELS
from timm.models import volo as timm_volo

from autoprog_mm import Subnet
from autoprog_mm.models import ElasticVOLO, VOLOHead
from tests.test_models.micro_volo import (
    AWAKE,
    MICRO,
    classifier,
    labelled,
    micro,
    randomize,
    timm_features,
    timm_twin,
    without_weights,
)


def test_is_registered():
    backbone = MODELS.build(dict(type='ElasticVOLO', arch=MICRO, img_size=32, patch_size=4))
    assert type(backbone) is ElasticVOLO
    assert isinstance(backbone, timm_volo.VOLO)


D1 = dict(layers=(4, 4, 8, 2), embed_dims=(192, 384, 384, 384), num_heads=(6, 12, 12, 12))


@pytest.fixture(scope='module')
def d1():
    """An ElasticVOLO-D1 for small images and its head in a classifier, with random weights."""
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='ElasticVOLO', arch='d1', img_size=64),
            head=dict(type='VOLOHead', num_classes=10, in_channels=384)))
    model.backbone.min_depth = 9
    return randomize(model, 0.05)


@torch.no_grad()
def assert_equal_to(twin, model, images):
    """Features and logits of a classifier are timm's."""
    output, = model.backbone(images)
    class_token, tokens = timm_features(twin, images)
    assert output.own_share == 1
    assert output.class_token.shape == class_token.shape
    assert output.tokens.flatten(1, 2).shape == tokens.shape
    logits, expected = model(images), twin(images)
    assert logits.shape == expected.shape
    assert logits.std() > 0.1
    for mine, theirs in ((output.class_token, class_token), (output.tokens.flatten(1, 2), tokens),
                         (logits, expected)):
        assert (mine - theirs).abs().max() <= 1e-5


def test_d1_is_timms(d1):
    twin = timm.create_model('volo_d1_224', img_size=64, num_classes=10).eval()
    weights = {**d1.backbone.state_dict(), **d1.head.state_dict()}
    assert weights.keys() == twin.state_dict().keys()
    twin.load_state_dict(weights, strict=True)
    d1.backbone.set_subnet(Subnet(18, 64))
    assert_equal_to(twin, d1, torch.randn(1, 3, 64, 64))


def test_depth_nine_of_d1_is_a_network_of_nine_blocks(d1):
    d1.backbone.set_subnet(Subnet(9, 32))
    twin = timm_twin(d1.backbone, D1, AWAKE[9], (2, 4, 2, 1), 32, patch_size=8, head=d1.head)
    assert twin.pos_embed.shape == (1, 2, 2, 384)
    assert_equal_to(twin, d1, torch.randn(1, 3, 32, 32))


def test_size_of_d1():
    with without_weights():
        parts = ElasticVOLO('d1'), VOLOHead(num_classes=1000, in_channels=384)
    # 26.63 M, of which 2 x 385,000 are of the two classifiers.
    assert sum(param.numel() for part in parts for param in part.parameters()) == 26_632_040


@pytest.mark.parametrize('arch, layers, outlookers, widths, heads, params', [
    ('d1', (4, 4, 8, 2), 4, (192, 384), (6, 12), 26.6),
    ('d2', (6, 4, 10, 4), 6, (256, 512), (8, 16), 58.7),
    ('d3', (8, 8, 16, 4), 8, (256, 512), (8, 16), 86.3),
    ('d4', (8, 8, 16, 4), 8, (384, 768), (12, 16), 193.),
    ('d5', (12, 12, 20, 4), 12, (384, 768), (12, 16), 296.),
    ('D1', (4, 4, 8, 2), 4, (192, 384), (6, 12), 26.6),
])
def test_variants_are_timms(arch, layers, outlookers, widths, heads, params):
    with without_weights():
        mine = ElasticVOLO(arch)
        theirs = timm.create_model(f'volo_{arch.lower()}_224')
    expected = {name: value.shape for name, value in theirs.state_dict().items()
                if not re.match('(aux_)?head', name)}
    assert [(name, value.shape) for name, value in mine.state_dict().items()] == \
        list(expected.items())
    assert mine.full_subnet == mine.subnet == Subnet(sum(layers), 224)
    assert [len(group) for group in mine.slot_groups] == [outlookers, sum(layers) - outlookers]
    assert mine.split_depth(sum(layers)) == (outlookers, sum(layers) - outlookers)
    assert all(type(slot).__name__ == 'Outlooker' for slot in mine.slot_groups[0])
    assert all(type(slot).__name__ == 'Transformer' for slot in mine.slot_groups[1])
    for group, width, number in zip(mine.slot_groups, widths, heads):
        assert {(slot.norm1.weight.numel(), slot.attn.num_heads) for slot in group} == \
            {(width, number)}
    # The published sizes are of the whole classifier.
    assert sum(p.numel() for p in theirs.parameters()) / 1e6 == pytest.approx(params, rel=0.005)
    scales = [m.attn.scale for m in mine.slot_groups[0] + list(mine.post_network)]
    assert scales == [m.attn.scale for m in [*theirs.network[0], *theirs.post_network]]


@pytest.mark.parametrize('depth, height, width', [
    (9, 16, 16), (9, 40, 48), (12, 24, 32), (15, 32, 16), (15, 8, 8), (18, 32, 32)])
def test_any_depth_and_size_is_timms(depth, height, width):
    elastic = micro()
    elastic.set_subnet(Subnet(depth, 32))
    outlookers, transformers = AWAKE[depth]
    layers = (len(outlookers), 2, len(transformers) - 3, 1)
    twin = timm_twin(elastic, MICRO, AWAKE[depth], layers, (height, width))
    images = torch.randn(2, 3, height, width)
    with torch.no_grad():
        output, = elastic(images)
        class_token, tokens = timm_features(twin, images)
    assert output.tokens.shape == (2, height // 8, width // 8, 16)
    torch.testing.assert_close(output.class_token, class_token, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.tokens.flatten(1, 2), tokens, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('kwargs', [
    dict(arch={**MICRO, 'mlp_ratio': 2.}),
    dict(qkv_bias=True),
    dict(in_channels=1),
    dict(patch_size=8, img_size=64),
    dict(patch_size=16, img_size=64),
    dict(arch=dict(layers=(2, 5), embed_dims=(8, 16), num_heads=(2, 4))),
    dict(arch=dict(layers=[2, 1, 2, 1, 1], embed_dims=[8] * 5, num_heads=[1] * 5)),
], ids=lambda kwargs: '-'.join(kwargs))
def test_options(kwargs):
    elastic = micro(min_depth=3, **kwargs)
    arch = kwargs.get('arch', MICRO)
    size = kwargs.get('img_size', 32)
    number = len(arch['layers'])
    twin = timm_volo.VOLO(
        **arch,
        img_size=size,
        patch_size=kwargs.get('patch_size', 4),
        in_chans=kwargs.get('in_channels', 3),
        qkv_bias=kwargs.get('qkv_bias', False),
        num_classes=0,
        downsamples=(True, ) + (False, ) * (number - 1),
        outlook_attention=(True, ) + (False, ) * (number - 1)).eval()
    twin.load_state_dict(elastic.state_dict(), strict=True)
    assert elastic.resolution_step == 2 * kwargs.get('patch_size', 4)
    assert elastic.full_subnet == Subnet(sum(arch['layers']), size)
    images = torch.randn(2, kwargs.get('in_channels', 3), size, size)
    with torch.no_grad():
        class_token, tokens = timm_features(twin, images)
        output, = elastic(images)
    torch.testing.assert_close(output.class_token, class_token, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.tokens.flatten(1, 2), tokens, rtol=1e-5, atol=1e-5)


def test_dropouts_are_timms():
    elastic = micro(pos_drop_rate=0.2, attn_drop_rate=0.3, mix_token=False)
    twin = timm_volo.VOLO(
        **MICRO, img_size=32, patch_size=4, num_classes=0, pos_drop_rate=0.2, attn_drop_rate=0.3)
    twin.load_state_dict(elastic.state_dict(), strict=True)
    images = torch.randn(2, 3, 32, 32)
    outputs = []
    for model in (elastic, twin):
        model.train()
        torch.manual_seed(1)  # the same places are dropped
        output = model(images) if model is elastic else timm_features(model, images)
        outputs.append(output[0].class_token if model is elastic else output[0])
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)
    elastic.eval()
    assert not torch.allclose(outputs[0], elastic(images)[0].class_token, atol=1e-3)


def test_initial_weights_are_timms():
    torch.manual_seed(0)
    elastic = ElasticVOLO(MICRO, img_size=32, patch_size=4)
    torch.manual_seed(0)
    twin = timm_volo.VOLO(**MICRO, img_size=32, patch_size=4, num_classes=0)
    elastic.init_weights()
    for (name, mine), theirs in zip(elastic.named_parameters(), twin.parameters()):
        assert torch.equal(mine, theirs), name


@pytest.mark.parametrize('arch, match', [
    ('d6', r"arch of ElasticVOLO must be one of \['d1', 'd2', 'd3', 'd4', 'd5'\] or a dict, but "
           "got 'd6'"),
    ({**MICRO, 'layers': (2, 4, 8, 4)}, r'must have 4 outlookers of 18 slots .* but has 2'),
    ({**MICRO, 'layers': (4, 1, 1, 1)}, r'must have 2 outlookers of 7 slots .* but has 4'),
    ({**MICRO, 'embed_dims': (8, 16, 16, 32)}, 'must be as wide'),
    ({**MICRO, 'num_heads': (2, 2, 4, 2)}, 'as many heads as each other'),
    ({**MICRO, 'num_heads': (2, 2, 2)}, 'must have one number for the outlookers and one for'),
    (dict(layers=(2, ), embed_dims=(8, ), num_heads=(2, )), 'one for each part of the transf'),
    (dict(layers=(2, 5), embed_dims=(8, 16)), r"must have .*'num_heads'.* but got"),
    ({**MICRO, 'patch_size': 4}, r"may have \['mlp_ratio', 'stem_hidden_dim'\], but got .*patch"),
])
def test_bad_arch(arch, match):
    with pytest.raises(ValueError, match=match):
        ElasticVOLO(arch, img_size=32, patch_size=4)


@pytest.mark.parametrize('img_size, match', [
    (36, r'\(36\) must be divisible by 8, twice'), (4, r'\(4\) must be divisible by 8, twice'),
    (0, 'must be an int'), (32., 'must be an int'), ('32', 'must be an int'),
    ((32, 32), 'must be an int'), (None, 'must be an int')])
def test_bad_img_size(img_size, match):
    with pytest.raises(ValueError, match=f'^img_size of ElasticVOLO {match}'):
        ElasticVOLO(MICRO, img_size=img_size, patch_size=4)


@pytest.mark.parametrize('patch_size', [2, 14, '8'])
def test_bad_patch_size(patch_size):
    with pytest.raises(ValueError, match=f'patch_size .* must be 4, 8 or 16, but got {patch_size}'):
        ElasticVOLO(MICRO, img_size=224, patch_size=patch_size)


@pytest.mark.parametrize('rate', [-0.1, 1.])
def test_bad_drop_path_rate(rate):
    with pytest.raises(ValueError, match='drop_path_rate must be a number in'):
        ElasticVOLO(MICRO, img_size=32, patch_size=4, drop_path_rate=rate)


def test_bfloat16_trains():
    model = classifier().train()
    model.backbone.set_subnet(Subnet(12, 24))
    data = model.data_preprocessor(labelled(), training=True)
    data['inputs'] = data['inputs'][..., :24, :24]
    with torch.autocast('cpu', torch.bfloat16):
        losses = model(**data, mode='loss')
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert model.backbone.pos_embed.grad.isfinite().all()


def test_loads_strictly_both_ways_at_any_depth():
    twin = randomize(timm_volo.VOLO(**MICRO, img_size=32, patch_size=4, num_classes=0))
    elastic = micro()
    elastic.set_subnet(Subnet(9, 16))
    elastic.load_state_dict(twin.state_dict(), strict=True)
    assert [name for name, _ in elastic.named_parameters()] == \
        [name for name, _ in twin.named_parameters()]
    fresh = timm_volo.VOLO(**MICRO, img_size=32, patch_size=4, num_classes=0)
    weights = elastic.state_dict()
    with pytest.raises(RuntimeError, match='Unexpected key.* "awake_subnet"'):
        fresh.load_state_dict(weights, strict=True)  # it would run untrained layers
    del weights['awake_subnet']
    fresh.load_state_dict(weights, strict=True)
    for name, value in twin.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name
