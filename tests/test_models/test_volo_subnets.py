# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What is awake, runs, learns and drops in an ElasticVOLO, and what it costs."""
import autoprog_mm  # noqa: F401  (before timm, which imports torchvision)

# isort: split
import re

import pytest
import torch
from mmcv.cnn.bricks import DropPath
from timm.models import volo as timm_volo
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from autoprog_mm import Subnet
from autoprog_mm.models import ElasticVOLO, mix_token
from tests.test_models.micro_volo import (
    AWAKE,
    MICRO,
    NUM_CLASSES,
    classifier,
    labelled,
    micro,
    slot_places,
    timm_features,
    without_weights,
)


def test_slots_are_in_forward_order():
    backbone = micro()
    names = {id(module): name for name, module in backbone.named_modules()}
    places = [[names[id(slot)] for slot in group] for group in backbone.slot_groups]
    assert places[0] == [f'network.0.{i}' for i in range(4)]
    assert places[1] == [f'network.2.{i}' for i in range(4)] + \
        [f'network.3.{i}' for i in range(8)] + [f'network.4.{i}' for i in range(2)]


@pytest.mark.parametrize('arch, table', [
    ('d1', {18: (4, 14), 15: (4, 11), 14: (4, 10), 12: (4, 8), 11: (4, 7), 9: (2, 7), 7: (2, 5)}),
    ('d2', {24: (6, 18), 20: (6, 14), 16: (4, 12), 12: (4, 8)}),
])
def test_split_by_hand(arch, table):
    with without_weights():
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
    with without_weights():
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
    with pytest.raises(ValueError, match='Only depths up to 12 are awake, but got 15x16'):
        backbone.set_running(Subnet(15, 16))
    assert backbone.running_subnet == Subnet(12, 24)
    with pytest.raises(ValueError, match=r'min_depth \(13\) must not exceed .* awake \(12\)'):
        backbone.min_depth = 13


def test_a_part_runs():
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
        with elastic.running(Subnet(depth, 24)):
            assert elastic.running_slots == AWAKE[depth]
            assert elastic.awake_slots == AWAKE[15]
            assert torch.equal(elastic(images)[0].class_token, expected[depth])
        assert elastic.running_slots == AWAKE[15]


def asleep(name, depth):
    """Whether a parameter of the backbone is of a sleeping slot."""
    for indices, places in zip(AWAKE[depth], slot_places(MICRO['layers'])):
        for slot, place in enumerate(places):
            if name.startswith(f'backbone.{place}.'):
                return slot not in indices
    return False


@pytest.mark.parametrize('depth, resolution, mix, labels', [
    (9, 16, True, 'image'), (12, 24, False, 'image'), (15, 32, True, 'token'),
    (18, 16, False, 'token'), (9, 16, True, 'class_token'), (15, 32, False, 'class_token')])
def test_awake_parameters_have_gradients_and_sleeping_ones_none(
        depth, resolution, mix, labels, monkeypatch):
    model = classifier(mix).train()
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
    monkeypatch.setattr(mix_token, 'draw_box', lambda height, width: (0.75, (0, 1, 0, 1)))
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


def test_only_running_slots_get_gradients():
    model = classifier().train()
    model.backbone.set_subnet(Subnet(15, 32))
    model.backbone.set_running(Subnet(9, 32))
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
        elastic.set_running(Subnet(9, 16))
    assert {name: id(param) for name, param in elastic.named_parameters()} == before
    assert all(torch.equal(param, values[name]) for name, param in elastic.named_parameters())


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
    elastic.set_running(Subnet(5, 32))
    assert [drop_path_rates(slots[i])[0] for i in (0, 2, 3)] == pytest.approx([0.15, 0.225, 0.3])
    elastic.set_running(None)
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


def count_flops(backbone, resolution):
    """Multiply-adds as torch counts them."""
    counter = FlopCounterMode(display=False)
    # As matrix products, all of which it knows; it calls a multiply-add two operations.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        backbone(torch.zeros(1, 3, resolution, resolution))
    return counter.get_total_flops() / 2


@pytest.mark.parametrize('kwargs', [
    dict(), dict(arch={**MICRO, 'mlp_ratio': 5., 'stem_hidden_dim': 24}),
    dict(patch_size=8, in_channels=1)], ids=['micro', 'wide', 'coarse'])
def test_flops(kwargs):
    elastic = micro(**kwargs)
    if kwargs.get('in_channels') == 1:
        elastic.forward = lambda x, forward=elastic.forward: forward(x[:, :1])
    for subnet in (Subnet(9, 16), Subnet(12, 48), Subnet(15, 16), Subnet(18, 32)):
        elastic.set_subnet(subnet)
        assert elastic.flops(subnet) == count_flops(elastic, subnet.resolution), subnet


def test_flops_of_d1():
    with without_weights():
        elastic = ElasticVOLO('d1')
    elastic.min_depth = 9
    # 6.8 G in the paper, a GFLOP being a multiply-add and the classifiers counted.
    assert elastic.flops(Subnet(18, 224)) / 1e9 == pytest.approx(6.8, rel=0.02)
    # What runs plays no part.
    elastic.set_subnet(Subnet(9, 128))
    assert elastic.flops(Subnet(18, 224)) / 1e9 == pytest.approx(6.8, rel=0.02)
