# Copyright (c) the autoprog_mm authors. All rights reserved.
import copy

import pytest
import torch
from mmpretrain.registry import MODELS, OPTIM_WRAPPERS

from autoprog_mm.growth import (
    GrowthOperator,
    IdentityInit,
    Interpolation,
    MoGrow,
    RandomInit,
    Stacking,
    Subnet,
)
from autoprog_mm.growth.operators import GroupGrowth
from autoprog_mm.registry import GROWTH_OPERATORS

# With a smallest depth of 4, the 8 slots wake in the order 0 2 4 6, 7 5 3 1.
FOUR, SIX, EIGHT = (0, 2, 4, 6), (0, 2, 4, 5, 6, 7), tuple(range(8))

INIT_CFG = [
    dict(type='TruncNormal', layer='Linear', std=.02),
    dict(type='Constant', layer='LayerNorm', val=1., bias=0.),
]


def build_model(init_cfg=INIT_CFG, **backbone):
    torch.manual_seed(0)
    arch = dict(embed_dims=16, num_layers=8, num_heads=2, feedforward_channels=32)
    return MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='ElasticDeiT', arch=arch, img_size=32, patch_size=4, **backbone),
            head=dict(type='VisionTransformerClsHead', num_classes=10, in_channels=16),
            init_cfg=copy.deepcopy(init_cfg)))


@torch.no_grad()
def mark_slots(model, offset=1):
    """Make every weight of slot k ``k + offset``, and of the rest 0.5."""
    for param in model.parameters():
        param.fill_(0.5)
    for index, slot in enumerate(model.backbone.layers):
        for param in slot.parameters():
            param.fill_(index + offset)


def marks(model):
    """What each slot is filled with; fails where its weights are not all the same."""
    values = []
    for slot in model.backbone.layers:
        value, = {v for param in slot.parameters() for v in param.unique().tolist()}
        values.append(value)
    return values


@torch.no_grad()
def apply(operator, model, before, after):
    backbone = model.backbone
    operator(GroupGrowth(backbone.layers, before, after, backbone, model))


def weights_but(model, *slots):
    """All weights but those of some slots."""
    prefixes = tuple(f'backbone.layers.{slot}.' for slot in slots)
    return {
        name: value.clone()
        for name, value in model.state_dict().items() if not name.startswith(prefixes)
    }


def assert_same(weights, others):
    assert weights.keys() == others.keys()
    assert all(torch.equal(value, others[name]) for name, value in weights.items())


def test_all_are_registered():
    assert {name: GROWTH_OPERATORS.get(name) for name in GROWTH_OPERATORS.module_dict} == dict(
        RandomInit=RandomInit,
        Stacking=Stacking,
        Interpolation=Interpolation,
        IdentityInit=IdentityInit,
        MoGrow=MoGrow)
    assert all(issubclass(cls, GrowthOperator) for cls in GROWTH_OPERATORS.module_dict.values())


def test_only_mogrow_adopts_the_momentum():
    adopting = [n for n, cls in GROWTH_OPERATORS.module_dict.items() if cls.adopts_momentum]
    assert adopting == ['MoGrow']


@pytest.mark.parametrize('operator', [Interpolation(), MoGrow()])
@pytest.mark.parametrize('before, after, expected', [
    (FOUR, SIX, [1, 2, 3, 4, 5, 5, 7, 7]),
    (FOUR, EIGHT, [1, 1, 3, 3, 5, 5, 7, 7]),
    (SIX, EIGHT, [1, 1, 3, 3, 5, 6, 7, 8]),
    ((0, 3), EIGHT, [1, 1, 1, 4, 4, 4, 4, 4]),
    (SIX, SIX, [1, 2, 3, 4, 5, 6, 7, 8]),
])
def test_interpolation(operator, before, after, expected):
    model = build_model()
    mark_slots(model)
    rest = weights_but(model, *range(8))
    apply(operator, model, before, after)
    assert marks(model) == expected
    assert_same(rest, weights_but(model, *range(8)))


@pytest.mark.parametrize('before, after, expected', [
    # The awake layers of SIX are slots 0 2 4 5 6 7: slot 5 is layer 3 and copies old
    # layer 3, which is slot 6; slot 7 is layer 5 and copies old layer 1, which is slot 2.
    (FOUR, SIX, [1, 2, 3, 4, 5, 7, 7, 3]),
    # Layers 1 3 5 7 copy old layers 1 3 1 3, slots 2 and 6.
    (FOUR, EIGHT, [1, 3, 3, 7, 5, 3, 7, 7]),
    # Layers 1 and 3 copy old layers 1 and 3, slots 2 and 5.
    (SIX, EIGHT, [1, 3, 3, 6, 5, 6, 7, 8]),
    ((0, 3), EIGHT, [1, 4, 1, 4, 1, 4, 1, 4]),
    (SIX, SIX, [1, 2, 3, 4, 5, 6, 7, 8]),
])
def test_stacking(before, after, expected):
    model = build_model()
    mark_slots(model)
    rest = weights_but(model, *range(8))
    apply(Stacking(), model, before, after)
    assert marks(model) == expected
    assert_same(rest, weights_but(model, *range(8)))


@pytest.mark.parametrize('backbone', [
    dict(),
    dict(layer_scale_init_value=0.1),
    dict(layer_cfgs=dict(ffn_type='swiglu_fused')),
], ids=['plain', 'layer_scale', 'swiglu'])
def test_identity_init_keeps_the_function(backbone):
    model = build_model(**backbone)
    with torch.no_grad():
        for param in model.parameters():  # zeros, such as fresh biases, would hide a mistake
            param.copy_(torch.randn_like(param) * 0.3)
    model.eval()
    model.backbone.min_depth = 4
    images = torch.randn(2, 3, 32, 32)

    def logits(subnet):
        model.backbone.set_subnet(subnet)
        with torch.no_grad():
            return model(images)

    model.backbone.set_subnet(Subnet(4, 32))
    rest = weights_but(model, 5, 7)
    before = logits(Subnet(4, 32))
    assert not torch.allclose(logits(Subnet(6, 32)), before, atol=1e-3)
    apply(IdentityInit(), model, FOUR, SIX)
    assert torch.equal(logits(Subnet(6, 32)), before)
    assert_same(rest, weights_but(model, 5, 7))


def test_identity_init_zeroes_the_last_projections_alone():
    model = build_model()
    mark_slots(model)
    rest = weights_but(model, 5, 7)
    apply(IdentityInit(), model, FOUR, SIX)
    for index, source in ((5, 4), (7, 6)):
        for name, param in model.backbone.layers[index].named_parameters():
            zeroed = name.startswith(('attn.proj.', 'ffn.layers.1.'))
            assert param.unique().tolist() == [0 if zeroed else source + 1], name
    assert_same(rest, weights_but(model, 5, 7))


def assert_fresh(slot, attention_std):
    """A slot is as after ``init_weights`` of a classifier with this init_cfg."""
    for weight in (slot.attn.qkv.weight, slot.attn.proj.weight):
        # 768 and 256 numbers: 3 standard errors are 8 % and 13 %.
        assert weight.std().item() == pytest.approx(attention_std, rel=0.15)
        assert abs(weight.mean().item()) < 0.25 * attention_std
    assert slot.attn.qkv.bias.eq(0).all() and slot.attn.proj.bias.eq(0).all()
    for norm in (slot.ln1, slot.ln2):
        assert norm.weight.eq(1).all() and norm.bias.eq(0).all()
    # mmpretrain's layers give their MLP Xavier's uniform weights whatever init_cfg says.
    bound = (6 / (16 + 32))**0.5
    for linear in (slot.ffn.layers[0][0], slot.ffn.layers[1]):
        assert 0.9 * bound < linear.weight.abs().max() <= bound
        assert linear.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
        assert 0 < linear.bias.abs().max() < 1e-5


@pytest.mark.parametrize('init_cfg, attention_std, initialized', [
    (INIT_CFG, 0.02, True),
    (INIT_CFG, 0.02, False),
    (dict(type='TruncNormal', layer='Linear', std=.3), 0.3, True),
    # What the run began with is no fresh weight.
    (INIT_CFG + [dict(type='Pretrained', checkpoint='/does/not/exist.pth')], 0.02, False),
])
def test_random_init(init_cfg, attention_std, initialized):
    model = build_model(init_cfg)
    if initialized:
        model.init_weights()
    mark_slots(model)  # as training would
    cfg_before = copy.deepcopy(model.init_cfg)
    rest = weights_but(model, 5, 7)
    apply(RandomInit(), model, FOUR, SIX)

    slots = model.backbone.layers
    for index in (5, 7):
        assert_fresh(slots[index], attention_std)
    assert not torch.equal(slots[5].attn.qkv.weight, slots[7].attn.qkv.weight)
    assert not torch.equal(slots[5].ffn.layers[1].weight, slots[7].ffn.layers[1].weight)
    assert_same(rest, weights_but(model, 5, 7))
    assert model.init_cfg == cfg_before


def test_random_init_again():
    """Slots that were trained, slept and wake once more are as fresh as at first."""
    model = build_model()
    model.init_weights()
    apply(RandomInit(), model, FOUR, SIX)
    first = model.backbone.layers[7].attn.qkv.weight.clone()
    mark_slots(model)
    apply(RandomInit(), model, FOUR, SIX)
    assert_fresh(model.backbone.layers[7], 0.02)
    assert not torch.equal(model.backbone.layers[7].attn.qkv.weight, first)


def test_random_init_is_that_of_a_new_classifier():
    model, new = build_model(), build_model()
    new.init_weights()
    mark_slots(model)
    apply(RandomInit(), model, FOUR, EIGHT)
    for name, param in model.backbone.layers[7].named_parameters():
        fresh = new.backbone.layers[7].get_parameter(name)
        assert param.std().item() == pytest.approx(fresh.std().item(), rel=0.3, abs=1e-12), name
        assert abs(param.mean() - fresh.mean()) <= 0.6 * fresh.std(), name


def test_random_init_follows_the_layers_own_init_cfg():
    own = dict(type='Constant', layer='LayerNorm', val=0.7, bias=0.1)
    model = build_model(layer_cfgs=dict(init_cfg=own))
    model.init_weights()
    mark_slots(model)
    apply(RandomInit(), model, FOUR, SIX)
    for index in (5, 7):
        norm = model.backbone.layers[index].ln1
        assert norm.weight.unique().tolist() == pytest.approx([0.7])
        assert norm.bias.unique().tolist() == pytest.approx([0.1])


def test_random_init_of_layer_scale():
    model = build_model(layer_scale_init_value=0.1)
    model.init_weights()
    mark_slots(model)
    apply(RandomInit(), model, FOUR, SIX)
    for index in (5, 7):
        slot = model.backbone.layers[index]
        for name, param in slot.named_parameters():
            if 'gamma' in name:
                assert param.unique().tolist() == pytest.approx([0.1]), name
    assert model.backbone.layers[6].attn.gamma1.weight.unique().tolist() == [7]


# In online weights slot k is k + 1 and the rest 0.5; in momentum weights k + 101 and -0.5.
@pytest.mark.parametrize('name, expected, rest', [
    ('Interpolation', [1, 2, 3, 4, 5, 5, 7, 7], 0.5),
    ('Stacking', [1, 2, 3, 4, 5, 7, 7, 3], 0.5),
    ('MoGrow', [101, 2, 103, 4, 105, 105, 107, 107], -0.5),
])
def test_growth_in_the_optimizer_wrapper(name, expected, rest):
    model = build_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapper = OPTIM_WRAPPERS.build(
        dict(type='MoGrowOptimWrapper', optimizer=optimizer, growth=dict(type=name)))
    model.backbone.min_depth = 4
    model.backbone.set_subnet(Subnet(4, 32))
    wrapper.initialize_count_status(model, 0, 10)
    mark_slots(model)
    for key, value in wrapper.momentum_weights().items():
        parts = key.split('.')
        value.fill_(int(parts[2]) + 101 if parts[1] == 'layers' and parts[0] == 'backbone' else -.5)

    wrapper.grow(model.backbone, Subnet(6, 32))
    assert model.backbone.awake_slots == (SIX, )
    assert marks(model) == expected
    others = [p for n, p in model.named_parameters() if not n.startswith('backbone.layers.')]
    assert all(param.unique().tolist() == [rest] for param in others)
    # The momentum copies always grow from their own sources.
    for key, value in wrapper.momentum_weights().items():
        if key.startswith('backbone.layers.'):
            slot = int(key.split('.')[2])
            assert value.unique().tolist() == [{5: 105, 7: 107}.get(slot, slot + 101)], key
        else:
            assert value.unique().tolist() == [-0.5]
