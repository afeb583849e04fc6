# Copyright (c) the autoprog_mm authors. All rights reserved.
"""ElasticVOLO against timm's VOLO, and what a search sees of it."""
import copy
import random
import re

import autoprog_mm  # noqa: F401  (before timm, which imports torchvision)

# isort: split
import cv2
import numpy as np
import pytest
import timm
import torch
from mmcv.cnn.bricks import DropPath
from mmpretrain.registry import MODELS, OPTIM_WRAPPERS
from mmpretrain.structures import DataSample
from timm.models import volo as timm_volo
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from autoprog_mm import Subnet
from autoprog_mm.growth import OneShotSearch
from autoprog_mm.models import ElasticVOLO, VOLOHead
from autoprog_mm.models import volo as our_volo
from autoprog_mm.models.volo import draw_box

# 18 slots like D1, for images of 32 pixels: 8 x 8 patches and 4 x 4 tokens.
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


def test_is_registered():
    backbone = MODELS.build(dict(type='ElasticVOLO', arch=MICRO, img_size=32, patch_size=4))
    assert type(backbone) is ElasticVOLO
    assert isinstance(backbone, timm_volo.VOLO)


# -------------------------------------------------------------- equal to timm


@pytest.fixture(scope='module')
def d1():
    """An ElasticVOLO-D1 and its head in a classifier, with random weights."""
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='ElasticVOLO', arch='d1'),
            head=dict(type='VOLOHead', num_classes=1000, in_channels=384)))
    model.backbone.min_depth = 9
    return randomize(model, 0.05)


D1 = dict(layers=(4, 4, 8, 2), embed_dims=(192, 384, 384, 384), num_heads=(6, 12, 12, 12))


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
    twin = timm.create_model('volo_d1_224').eval()
    weights = {**d1.backbone.state_dict(), **d1.head.state_dict()}
    assert weights.keys() == twin.state_dict().keys()
    twin.load_state_dict(weights, strict=True)
    d1.backbone.set_subnet(Subnet(18, 224))
    assert_equal_to(twin, d1, torch.randn(1, 3, 224, 224))
    assert d1.backbone(torch.randn(1, 3, 224, 224))[0].tokens.shape == (1, 14, 14, 384)
    # 26.63 M, of which 2 x 385,000 are of the two classifiers.
    assert sum(param.numel() for param in d1.parameters()) == 26_632_040


def test_d1_at_160(d1):
    d1.backbone.set_subnet(Subnet(18, 160))
    twin = timm_twin(
        d1.backbone, D1, (range(4), range(14)), (4, 4, 8, 2), 160, patch_size=8, head=d1.head)
    assert twin.pos_embed.shape == (1, 10, 10, 384)
    assert_equal_to(twin, d1, torch.randn(1, 3, 160, 160))


@pytest.mark.parametrize('layers, size', [((2, 7, 0, 0), 128), ((2, 4, 2, 1), 224)])
def test_depth_nine_of_d1_is_a_network_of_nine_blocks(d1, layers, size):
    d1.backbone.set_subnet(Subnet(9, size))
    twin = timm_twin(d1.backbone, D1, AWAKE[9], layers, size, patch_size=8, head=d1.head)
    assert_equal_to(twin, d1, torch.randn(1, 3, size, size))


@pytest.mark.parametrize('arch, layers, outlookers, widths, heads, params', [
    ('d1', (4, 4, 8, 2), 4, (192, 384), (6, 12), 26.6),
    ('d2', (6, 4, 10, 4), 6, (256, 512), (8, 16), 58.7),
    ('d3', (8, 8, 16, 4), 8, (256, 512), (8, 16), 86.3),
    ('d4', (8, 8, 16, 4), 8, (384, 768), (12, 16), 193.),
    ('d5', (12, 12, 20, 4), 12, (384, 768), (12, 16), 296.),
    ('D1', (4, 4, 8, 2), 4, (192, 384), (6, 12), 26.6),
])
def test_variants_are_timms(arch, layers, outlookers, widths, heads, params):
    with torch.device('meta'):
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


def test_slots_are_in_forward_order():
    backbone = micro()
    names = {id(module): name for name, module in backbone.named_modules()}
    places = [[names[id(slot)] for slot in group] for group in backbone.slot_groups]
    assert places[0] == [f'network.0.{i}' for i in range(4)]
    assert places[1] == [f'network.2.{i}' for i in range(4)] + \
        [f'network.3.{i}' for i in range(8)] + [f'network.4.{i}' for i in range(2)]


@pytest.mark.parametrize('depth', AWAKE)
@pytest.mark.parametrize('height, width', [
    (32, 32), (16, 16), (32, 16), (24, 32), (40, 48), (8, 8)])
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


# ------------------------------------------------------------ depths and slots


@pytest.mark.parametrize('arch, table', [
    ('d1', {18: (4, 14), 15: (4, 11), 14: (4, 10), 12: (4, 8), 11: (4, 7), 9: (2, 7), 7: (2, 5)}),
    ('d2', {24: (6, 18), 20: (6, 14), 16: (4, 12), 12: (4, 8)}),
])
def test_split_by_hand(arch, table):
    with torch.device('meta'):
        backbone = ElasticVOLO(arch)
    assert {depth: backbone.split_depth(depth) for depth in table} == table


# The schedules of DESIGN.md, section 4; the transformers' slots worked out by hand. D1 from
# 7 = 2 + 5: gaps at 0 2 5 8 11, then 12 9 6 3 1, then 13 10 7 4. D2 from 12 = 4 + 8: gaps at
# 0 2 4 6 8 10 12 15, then 16 13 11 9 7 5 3 1, then 17 14; its outlookers 0 1 2 4, then 5 3.
SCHEDULES = {
    'd1 0.5': ('d1', AWAKE),
    'd1 0.4': ('d1', {
        7: ((0, 2), (0, 2, 5, 8, 11)),
        11: ((0, 1, 2, 3), (0, 2, 5, 8, 9, 11, 12)),
        14: ((0, 1, 2, 3), (0, 1, 2, 3, 5, 6, 8, 9, 11, 12)),
        18: (tuple(range(4)), tuple(range(14))),
    }),
    'd2 0.5': ('d2', {
        12: ((0, 1, 2, 4), (0, 2, 4, 6, 8, 10, 12, 15)),
        16: ((0, 1, 2, 4), (0, 2, 4, 6, 8, 9, 10, 11, 12, 13, 15, 16)),
        20: (tuple(range(6)), (0, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 16)),
        24: (tuple(range(6)), tuple(range(18))),
    }),
}


@pytest.mark.parametrize('schedule', SCHEDULES)
def test_awake_slots_along_a_schedule(schedule):
    arch, awake = SCHEDULES[schedule]
    with torch.device('meta'):
        backbone = ElasticVOLO(arch)
    backbone.min_depth = min(awake)
    before = None
    for depth, slots in awake.items():
        backbone.set_subnet(Subnet(depth, 224))
        assert backbone.awake_slots == backbone.running_slots == slots
        assert backbone.slots_at(depth) == slots
        assert tuple(map(len, slots)) == backbone.split_depth(depth)
        if before is not None:
            backbone.check_growth(Subnet(before, 128), Subnet(depth, 160))
            assert all(set(old) <= set(new) for old, new in zip(awake[before], slots))
        before = depth


def test_is_full_at_first():
    backbone = ElasticVOLO(MICRO, img_size=32, patch_size=4)
    assert backbone.awake_subnet == backbone.running_subnet == Subnet(18, 32)
    assert backbone.full_subnet == Subnet(18, 32)
    assert backbone.min_depth == 18
    assert backbone.awake_slots == backbone.running_slots == AWAKE[18]
    assert all(param.requires_grad for param in backbone.parameters())
    assert backbone.mix_token is True and backbone.drop_path_rate == 0


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


@pytest.mark.parametrize('img_size', [36, 4, 0, -32, 32., '32', (32, 32), True, None])
def test_bad_img_size(img_size):
    with pytest.raises(ValueError, match=r'img_size of ElasticVOLO \(.*\) must be .* by 8, twice'):
        ElasticVOLO(MICRO, img_size=img_size, patch_size=4)


@pytest.mark.parametrize('patch_size', [2, 7, 14, 32, '8'])
def test_bad_patch_size(patch_size):
    with pytest.raises(ValueError, match=f'patch_size .* must be 4, 8 or 16, but got {patch_size}'):
        ElasticVOLO(MICRO, img_size=224, patch_size=patch_size)


@pytest.mark.parametrize('rate', [-0.1, 1.])
def test_bad_drop_path_rate(rate):
    with pytest.raises(ValueError, match='drop_path_rate must be in'):
        ElasticVOLO(MICRO, img_size=32, patch_size=4, drop_path_rate=rate)


def test_bad_subnets():
    backbone = ElasticVOLO(MICRO, img_size=32, patch_size=4)
    for depth, counts in ((1, '2 and -1'), (2, '2 and 0')):
        message = rf'at depth {depth}: of its groups of 4 and 14 slots {counts}'
        with pytest.raises(ValueError, match=message):
            backbone.min_depth = depth
    assert backbone.min_depth == 18
    backbone.min_depth = 9
    for resolution in (20, 28, 33):
        with pytest.raises(ValueError, match=rf'resolution \({resolution}\) .* divisible by 8'):
            backbone.set_subnet(Subnet(9, resolution))
    with pytest.raises(ValueError, match=r'between min_depth \(9\) and the full depth .* \(18\)'):
        backbone.set_subnet(Subnet(8, 32))
    with pytest.raises(ValueError, match='got 19'):
        backbone.flops(Subnet(19, 32))
    assert backbone.awake_subnet == Subnet(18, 32)
    with pytest.raises(ValueError, match=r'from depth 9 to 10.* from \(2, 7\) to \(4, 6\) slots'):
        backbone.check_growth(Subnet(9, 32), Subnet(10, 32))
    backbone.check_growth(Subnet(9, 32), Subnet(11, 32))
    backbone.set_subnet(Subnet(12, 24))
    with pytest.raises(ValueError, match='Only depths up to 12 are awake, but got .*depth=15'):
        backbone.activate(Subnet(15, 16))
    assert backbone.running_subnet == Subnet(12, 24)
    with pytest.raises(ValueError, match='must not exceed the depth that runs'):
        backbone.min_depth = 13


def test_activate_runs_a_part():
    elastic = micro()
    images = torch.randn(2, 3, 24, 24)
    expected = {}
    for depth in AWAKE:
        elastic.set_subnet(Subnet(depth, 24))
        expected[depth] = elastic(images)[0].class_token.detach()
    assert not any(
        torch.allclose(expected[a], expected[b]) for a in AWAKE for b in AWAKE if a < b)
    elastic.set_subnet(Subnet(15, 32))
    for depth in (9, 12, 15):
        with elastic.activated(Subnet(depth, 24)):
            assert elastic.running_slots == AWAKE[depth]
            assert elastic.awake_slots == AWAKE[15]
            assert torch.equal(elastic(images)[0].class_token, expected[depth])
        assert elastic.running_slots == AWAKE[15]


# ------------------------------------------------------------------ gradients


def asleep(name, depth):
    """Whether a parameter of the backbone is of a sleeping slot."""
    for indices, places in zip(AWAKE[depth], slot_places(MICRO['layers'])):
        for slot, place in enumerate(places):
            if name.startswith(f'backbone.{place}.'):
                return slot not in indices
    return False


@pytest.mark.parametrize('labels', ['image', 'token', 'class_token'])
@pytest.mark.parametrize('mix_token', [True, False])
@pytest.mark.parametrize('depth, resolution', [(9, 16), (12, 24), (15, 32), (18, 16)])
def test_awake_parameters_have_gradients_and_sleeping_ones_none(
        depth, resolution, mix_token, labels, monkeypatch):
    model = classifier(mix_token).train()
    # Gradients of the full network must not outlive it.
    data = model.data_preprocessor(labelled(), training=True)
    model(**data, mode='loss')['loss_class'].backward()
    model.backbone.set_subnet(Subnet(depth, resolution))
    assert model.backbone.awake_slots == AWAKE[depth]
    for name, param in model.named_parameters():
        assert param.requires_grad != asleep(name, depth), name
        assert param.requires_grad or param.grad is None, name

    model.zero_grad()
    side = resolution // 8
    monkeypatch.setattr(our_volo, 'draw_box', lambda height, width: (0.75, (0, 1, 0, 1)))
    data['inputs'] = data['inputs'][..., :resolution, :resolution]
    if labels == 'class_token':
        model.head.class_target = 'token_label'
    if labels != 'image':
        for sample in data['data_samples']:
            sample.set_field(torch.rand(side, side, NUM_CLASSES).softmax(-1), 'token_score')
            sample.set_field(torch.rand(NUM_CLASSES).softmax(-1), 'token_class_score')
    losses = model(**data, mode='loss')
    assert losses.keys() == {'loss_class', 'loss_token'}
    sum(losses.values()).backward()
    for name, param in model.named_parameters():
        assert (param.grad is None) == asleep(name, depth), name
        assert param.grad is None or param.grad.abs().sum() > 0, name


def test_without_token_loss_all_but_the_aux_head_have_gradients():
    model = classifier(dense_weight=0)
    model.train()
    model.backbone.set_subnet(Subnet(12, 32))
    losses = model(**model.data_preprocessor(labelled(), training=True), mode='loss')
    assert losses.keys() == {'loss_class'}
    losses['loss_class'].backward()
    assert not any('aux_head' in name for name, _ in model.named_parameters())
    for name, param in model.named_parameters():
        assert (param.grad is None) == asleep(name, 12), name


def test_only_active_slots_get_gradients():
    model = classifier().train()
    model.backbone.set_subnet(Subnet(15, 32))
    model.backbone.activate(Subnet(9, 32))
    losses = model(**model.data_preprocessor(labelled(), training=True), mode='loss')
    sum(losses.values()).backward()
    for name, param in model.named_parameters():
        assert param.requires_grad != asleep(name, 15), name
        assert (param.grad is None) == asleep(name, 9), name


def test_parameters_keep_their_identity():
    elastic = micro()
    before = {name: id(param) for name, param in elastic.named_parameters()}
    values = {name: param.clone() for name, param in elastic.named_parameters()}
    for subnet in (Subnet(9, 16), Subnet(12, 24), Subnet(18, 32), Subnet(15, 32)):
        elastic.set_subnet(subnet)
        elastic.activate(Subnet(9, 16))
    assert {name: id(param) for name, param in elastic.named_parameters()} == before
    assert all(torch.equal(param, values[name]) for name, param in elastic.named_parameters())


# ------------------------------------------------------------------ drop path


def drop_path_rates(slot):
    """Rates of both paths; what has no drop path has a rate of 0."""
    return [getattr(path, 'drop_prob', 0.) for path in (slot.drop_path1, slot.drop_path2)]


@pytest.mark.parametrize('depth', AWAKE)
def test_drop_path_is_that_of_a_timm_network_of_this_depth(depth):
    elastic = micro(drop_path_rate=0.3)
    elastic.set_subnet(Subnet(depth, 32))
    outlookers, transformers = AWAKE[depth]
    twin = timm_volo.VOLO(
        **{**MICRO, 'layers': (len(outlookers), 1, len(transformers) - 3, 2)},
        num_classes=0, drop_path_rate=0.3)
    theirs = [drop_path_rates(slot) for part in twin.network[2:] for slot in part]
    mine = [drop_path_rates(elastic.slot_groups[1][slot]) for slot in transformers]
    assert mine == [pytest.approx(rates) for rates in theirs]
    assert mine[-1] == pytest.approx([0.3, 0.3]) and mine[0][0] > 0
    for block in [*elastic.slot_groups[0], *elastic.post_network]:
        assert not any(isinstance(module, DropPath) for module in block.modules())


def test_drop_path_by_hand():
    elastic = micro(arch=dict(layers=(2, 5), embed_dims=(8, 16), num_heads=(2, 2)), min_depth=4,
                    drop_path_rate=0.6)
    # Waking order of the 5 transformers from 2: gaps at 0 and 2, then 3 1, then 4.
    elastic.set_subnet(Subnet(4, 32))
    slots = elastic.slot_groups[1]
    assert elastic.awake_slots == ((0, 1), (0, 2))
    assert [drop_path_rates(slots[i])[0] for i in (0, 2)] == pytest.approx([0.4, 0.6])
    elastic.drop_path_rate = 0.3
    assert [drop_path_rates(slots[i])[1] for i in (0, 2)] == pytest.approx([0.2, 0.3])
    elastic.set_subnet(Subnet(7, 32))
    assert [drop_path_rates(slot)[1] for slot in slots] == pytest.approx([.1, .15, .2, .25, .3])
    elastic.activate(Subnet(5, 32))
    assert [drop_path_rates(slots[i])[0] for i in (0, 2, 3)] == pytest.approx([0.15, 0.225, 0.3])
    elastic.activate(None)
    assert [drop_path_rates(slot)[0] for slot in slots] == pytest.approx([.1, .15, .2, .25, .3])


def test_drop_path_drops():
    """What is dropped in a sample is gone: with all but certain drops, transformers vanish."""
    elastic = micro(drop_path_rate=0.999999, mix_token=False)
    elastic.set_subnet(Subnet(18, 32))
    for slot in elastic.slot_groups[1]:
        slot.drop_path1.drop_prob = slot.drop_path2.drop_prob = 0.999999
    images = torch.randn(2, 3, 32, 32)
    elastic.train()
    tokens = elastic(images)[0].tokens
    # Only branches of the outlookers are left.
    twin = timm_volo.VOLO(
        **{**MICRO, 'layers': (4, 0, 0, 0)}, img_size=32, patch_size=4, num_classes=0)
    weights = {k: v for k, v in elastic.state_dict().items() if not re.match(r'network\.[234]', k)}
    twin.load_state_dict(weights, strict=True)
    expected = timm_features(twin.train(), images)[1]
    torch.testing.assert_close(tokens.flatten(1, 2), expected, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------------- flops


def count_flops(backbone, resolution):
    """Multiply-adds as torch counts them."""
    counter = FlopCounterMode(display=False)
    # As matrix products, all of which it knows; it calls a multiply-add two operations.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        backbone(torch.zeros(1, 3, resolution, resolution))
    return counter.get_total_flops() / 2


@pytest.mark.parametrize('subnet', [
    Subnet(9, 16), Subnet(9, 32), Subnet(12, 48), Subnet(15, 16), Subnet(18, 32), Subnet(18, 64)])
@pytest.mark.parametrize('kwargs', [
    dict(), dict(arch={**MICRO, 'mlp_ratio': 5., 'stem_hidden_dim': 24}),
    dict(patch_size=8, in_channels=1)], ids=['micro', 'wide', 'coarse'])
def test_flops(subnet, kwargs):
    elastic = micro(**kwargs)
    elastic.set_subnet(subnet)
    if kwargs.get('in_channels') == 1:
        elastic.forward = lambda x, forward=elastic.forward: forward(x[:, :1])
    assert elastic.flops(subnet) == count_flops(elastic, subnet.resolution)


def test_flops_of_d1():
    with torch.device('meta'):
        elastic = ElasticVOLO('d1').eval()
        elastic.min_depth = 9
        for subnet in (Subnet(9, 128), Subnet(18, 224)):
            elastic.set_subnet(subnet)
            assert elastic.flops(subnet) == count_flops(elastic, subnet.resolution)
    # 6.8 G in the paper, a GFLOP being a multiply-add and the classifiers counted.
    assert elastic.flops(Subnet(18, 224)) / 1e9 == pytest.approx(6.8, rel=0.02)
    # What runs plays no part.
    elastic.set_subnet(Subnet(9, 128))
    assert elastic.flops(Subnet(18, 224)) / 1e9 == pytest.approx(6.8, rel=0.02)


# ------------------------------------------------------------------ MixToken


def fixed_box(monkeypatch, share, box):
    asked = []

    def draw(height, width):
        asked.append((height, width))
        return share, box

    monkeypatch.setattr(our_volo, 'draw_box', draw)
    return asked


@pytest.mark.parametrize('batch', [1, 2, 3, 4])
@pytest.mark.parametrize('height, width, box, share', [
    (32, 32, (1, 3, 0, 2), 0.75),
    (32, 32, (0, 4, 0, 4), 0.),
    (32, 32, (2, 2, 1, 3), 1.),
    (24, 24, (0, 2, 1, 3), 5 / 9),
    (16, 24, (0, 1, 1, 3), 2 / 3),
])
def test_mix_token_step_by_step(height, width, box, share, batch, monkeypatch):
    elastic = micro()
    elastic.set_subnet(Subnet(12, 32))
    twin = timm_twin(elastic, MICRO, AWAKE[12], (4, 8, 0, 0), (height, width)).train()
    asked = fixed_box(monkeypatch, share, box)
    images = torch.randn(batch, 3, height, width)
    elastic.train()
    output, = elastic(images)
    assert asked == [(height // 8, width // 8)]
    assert output.own_share == share

    with torch.no_grad():
        top, bottom, left, right = box
        patches = twin.patch_embed(images).permute(0, 2, 3, 1)
        mixed = patches.clone()
        for sample in range(batch):
            for row in range(2 * top, 2 * bottom):
                for column in range(2 * left, 2 * right):
                    mixed[sample, row, column] = patches[batch - 1 - sample, row, column]
        features = twin.norm(twin.forward_cls(twin.forward_tokens(mixed)))
        tokens = features[:, 1:].reshape(batch, height // 8, width // 8, 16)
        own = tokens.clone()
        for sample in range(batch):
            for row in range(top, bottom):
                for column in range(left, right):
                    own[sample, row, column] = tokens[batch - 1 - sample, row, column]
    torch.testing.assert_close(output.class_token, features[:, 0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.tokens, own, rtol=1e-5, atol=1e-5)
    assert elastic.patch_embed.conv[1].num_batches_tracked == 1


def test_tokens_come_back_to_their_sample():
    """Where no slot mixes places, MixToken moves nothing but the class token."""
    elastic = micro()
    with torch.no_grad():
        for group in elastic.slot_groups:
            for slot in group:
                for projection in elastic.branch_outputs(slot):
                    projection.weight.zero_()
                    projection.bias.zero_()
    images = torch.randn(3, 3, 32, 32)
    elastic.train()
    elastic.mix_token = False
    plain, = elastic(images)
    assert plain.own_share == 1
    elastic.mix_token = True
    shares, mixed = set(), 0
    for seed in range(8):
        np.random.seed(seed)
        output, = elastic(images)
        torch.testing.assert_close(output.tokens, plain.tokens)
        # The middle sample is its own partner.
        torch.testing.assert_close(output.class_token[1], plain.class_token[1])
        mixed += not torch.allclose(output.class_token[0], plain.class_token[0], atol=1e-3)
        shares.add(output.own_share)
    assert len(shares) > 4 and mixed >= 5


@pytest.mark.parametrize('training, mix_token', [(False, True), (True, False)])
def test_no_mixing(training, mix_token, monkeypatch):
    elastic = micro(mix_token=mix_token).train(training)
    monkeypatch.setattr(our_volo, 'draw_box', None)
    before = np.random.get_state()
    output, = elastic(torch.randn(2, 3, 32, 32))
    assert output.own_share == 1
    assert all(np.array_equal(a, b) for a, b in zip(before, np.random.get_state()))


@pytest.mark.parametrize('height, width', [(14, 14), (7, 7), (4, 6), (3, 5), (1, 1), (1, 4)])
def test_draw_box_ranges(height, width):
    np.random.seed(0)
    shares, sides = [], set()
    for _ in range(400):
        share, (top, bottom, left, right) = draw_box(height, width)
        assert 0 <= top <= bottom <= height and 0 <= left <= right <= width
        assert {type(edge) for edge in (top, bottom, left, right)} == {int}
        cells = sum(not (top <= y < bottom and left <= x < right)
                    for y in range(height) for x in range(width))
        assert share == pytest.approx(cells / (height * width))
        assert 0 <= share <= 1
        shares.append(share)
        sides.add((bottom - top, right - left))
    if min(height, width) > 2:
        assert len(sides) > 5
        assert {s[0] for s in sides} >= {0, 1, height - 1}  # any size, odd and even
    if height * width == 1:
        assert set(shares) == {1.}


def test_draw_box_is_uniform_before_the_cut():
    """Its centre is anywhere, and its uncut area has a mean of a half."""
    np.random.seed(1)
    boxes = [draw_box(101, 101)[1] for _ in range(2000)]
    uncut = [(bottom - top) * (right - left) / 101**2 for top, bottom, left, right in boxes
             if top > 0 and left > 0 and bottom < 101 and right < 101]
    assert 300 < len(uncut) < 1000
    # All quarters of the grid are as likely, up to 4 standard errors.
    for axis in (0, 2):
        centres = [(box[axis] + box[axis + 1]) / 2 for box in boxes]
        assert np.mean(centres) == pytest.approx(50.5, abs=2.5)
    # Cut or not, a box is nearly empty for one draw in a hundred.
    tiny = np.mean([(bottom - top) * (right - left) < 0.01 * 101**2
                    for top, bottom, left, right in boxes])
    assert 0.003 < tiny < 0.05


@pytest.mark.parametrize('height, width', [(14, 14), (7, 7), (5, 9)])
def test_draw_box_is_timms(height, width, monkeypatch):
    """With the same draws, it is the box of timm's ``rand_bbox``."""
    seen = set()
    for lam in (0.02, 0.13, 0.4, 0.55, 0.77, 0.93, 0.999):
        for row, column in ((0, 0), (height // 2, width - 1), (height - 1, 1), (2, 3)):
            with monkeypatch.context() as patch:
                draws = iter((row, column))
                patch.setattr(np.random, 'beta', lambda a, b, lam=lam: lam)
                patch.setattr(np.random, 'randint', lambda high, draws=draws: next(draws))
                share, box = draw_box(height, width)
            with monkeypatch.context() as patch:
                centres = iter((row, column))
                patch.setattr(torch, 'randint',
                              lambda low, high, size, c=centres: torch.tensor([next(c)]))
                x1, y1, x2, y2 = timm_volo.rand_bbox(
                    (1, 2 * height, 2 * width, 8), torch.tensor(lam), scale=2)
            assert box == (x1, x2, y1, y2)
            seen.add(box)
    assert len(seen) > 15


def test_draw_box_depends_on_numpys_seed_alone():
    first, states = [], []
    for run in range(2):
        np.random.seed(3)
        torch.manual_seed(run)
        random.seed(run)
        states.append((torch.get_rng_state(), random.getstate()))
        first.append([draw_box(14, 14) for _ in range(20)])
        assert torch.equal(torch.get_rng_state(), states[run][0])
        assert random.getstate() == states[run][1]
    assert first[0] == first[1]
    np.random.seed(4)
    assert [draw_box(14, 14) for _ in range(20)] != first[0]


# ------------------------------------------------------- BatchNorm and search


def batch_norms(model):
    return [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]


def buffers(model):
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def search_of(model, candidates=((9, 16), (9, 32), (12, 24), (15, 32))):
    wrapper = OPTIM_WRAPPERS.build(
        dict(
            type='MoGrowOptimWrapper',
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            growth=dict(type='Interpolation')))
    model.backbone.set_subnet(Subnet(15, 32))
    wrapper.initialize_count_status(model, 0, 10)
    generator = torch.Generator().manual_seed(5)
    for value in wrapper.momentum_weights(0).values():  # unlike the online weights
        value.add_(0.1 * torch.randn(value.shape, generator=generator))
    search = OneShotSearch(epochs=1, eval_batches=2, cost='time')
    search.start([Subnet(*candidate) for candidate in candidates])
    search.hold_batches([labelled(4, 0), labelled(3, 1)])
    return search, wrapper


def poison(model):
    for norm in batch_norms(model):
        norm.running_mean.fill_(1e4)
        norm.running_var.fill_(1e8)


@pytest.mark.parametrize('what', ['evaluate', 'measure'])
def test_search_keeps_batch_norm(what):
    model = randomize(classifier()).train()
    search, wrapper = search_of(model)
    assert len(batch_norms(model)) == 3
    before = buffers(model)
    modes = [module.training for module in model.modules()]
    getattr(search, what)(model, wrapper)
    after = buffers(model)
    assert {'backbone.patch_embed.conv.1.num_batches_tracked',
            'backbone.patch_embed.conv.7.running_var'} <= after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
    assert [module.training for module in model.modules()] == modes
    assert all(param.grad is None for param in model.parameters())
    assert model.backbone.running_subnet == Subnet(15, 32)


def test_search_scores_with_batch_statistics_and_without_mixing(monkeypatch):
    """The losses are those of timm networks of the candidates' own depths."""
    model = randomize(classifier(drop_path_rate=0.9)).train()
    search, wrapper = search_of(model)
    weights = wrapper.momentum_weights(0)
    online = copy.deepcopy(model.state_dict())

    expected = []
    momentum = copy.deepcopy(model)
    momentum.load_state_dict({**online, **weights})
    for candidate in search.candidates:
        counts = [len(slots) for slots in AWAKE[candidate.depth]]
        twin = timm_twin(momentum.backbone, MICRO, AWAKE[candidate.depth],
                         (counts[0], counts[1], 0, 0), candidate.resolution, head=momentum.head)
        for norm in batch_norms(twin):
            norm.train()
        total, number = 0., 0
        for batch in (labelled(4, 0), labelled(3, 1)):
            images = (batch['inputs'].float() - 110) / 60
            if candidate.resolution != 32:
                images = torch.nn.functional.interpolate(
                    images, (candidate.resolution, ) * 2, mode='bilinear')
            with torch.no_grad():
                logits = twin(images).double().numpy()
            for row, sample in zip(logits, batch['data_samples']):
                total += np.log(np.exp(row).sum()) - row[sample.gt_label.item()]
                number += 1
        assert number == 7
        expected.append(total / number)
    assert len({round(loss, 3) for loss in expected}) == 4

    with monkeypatch.context() as patch:
        patch.setattr(our_volo, 'draw_box', None)  # nothing may be mixed
        search.evaluate(model, wrapper)
    assert [losses[0] for losses in search.losses] == pytest.approx(expected, abs=1e-4)

    # They depend on neither the statistics so far, nor on a seed.
    poison(model)
    np.random.seed(7)
    torch.manual_seed(7)
    search.evaluate(model, wrapper)
    assert all(first == second for first, second in search.losses)
    for name, value in model.named_parameters():
        assert torch.equal(value, online[name]), name


def test_training_updates_batch_norm_at_every_resolution():
    model = classifier().train()
    wrapper = OPTIM_WRAPPERS.build(
        dict(type='MoGrowOptimWrapper', optimizer=torch.optim.SGD(model.parameters(), lr=0.01)))
    wrapper.initialize_count_status(model, 0, 10)
    means = []
    for step, (depth, resolution) in enumerate([(9, 16), (12, 24), (18, 32)]):
        model.backbone.set_subnet(Subnet(depth, resolution))
        model.data_preprocessor.resolution = resolution
        logs = model.train_step(labelled(4, step), wrapper)
        assert np.isfinite(logs['loss'].item())
        assert logs['loss'].item() == pytest.approx(
            logs['loss_class'].item() + logs['loss_token'].item())
        assert [norm.num_batches_tracked.item() for norm in batch_norms(model)] == [step + 1] * 3
        means.append([norm.running_mean.clone() for norm in batch_norms(model)])
    for norm in range(3):
        assert means[0][norm].abs().max() > 0
        assert not torch.equal(means[0][norm], means[1][norm])
        assert not torch.equal(means[1][norm], means[2][norm])


def test_first_statistics_by_hand():
    """One training step moves the first mean by a tenth of the batch's own."""
    model = classifier().train()
    data = model.data_preprocessor(labelled(), training=True)
    with torch.no_grad():
        stem = model.backbone.patch_embed.conv[0](data['inputs'])
    model(**data, mode='loss')
    torch.testing.assert_close(
        model.backbone.patch_embed.conv[1].running_mean, 0.1 * stem.mean((0, 2, 3)))


# --------------------------------------------------------------------- others


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


def test_head_of_the_classifier_is_ours():
    assert type(classifier().head) is VOLOHead


def test_loads_strictly_both_ways_at_any_depth():
    twin = randomize(timm_volo.VOLO(**MICRO, img_size=32, patch_size=4, num_classes=0))
    elastic = micro()
    elastic.set_subnet(Subnet(9, 16))
    elastic.load_state_dict(twin.state_dict(), strict=True)
    assert [name for name, _ in elastic.named_parameters()] == \
        [name for name, _ in twin.named_parameters()]
    fresh = timm_volo.VOLO(**MICRO, img_size=32, patch_size=4, num_classes=0)
    fresh.load_state_dict(elastic.state_dict(), strict=True)
    for name, value in twin.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name
