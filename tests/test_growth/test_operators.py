# Copyright (c) the autoprog_mm authors. All rights reserved.
import copy

import pytest
import torch
from mmpretrain.registry import MODELS

from autoprog_mm.growth import (
    GroupGrowth,
    GrowthOperator,
    IdentityInit,
    Interpolation,
    Keep,
    MoGrow,
    RandomInit,
    Stacking,
    Subnet,
    grow,
)
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
def mark(model, copies=2):
    """Make all weights of slot k ``k + 1``, and of the rest 0.5; in momentum copy j (which is
    returned) 100 (j + 1) more, and of the rest ``-(j + 1)``."""
    for param in model.parameters():
        param.fill_(0.5)
    momentum = [{name: torch.full_like(param, -(j + 1))
                 for name, param in model.named_parameters()} for j in range(copies)]
    for index, slot in enumerate(model.backbone.layers):
        for name, param in slot.named_parameters():
            param.fill_(index + 1)
            for j, copy_ in enumerate(momentum):
                copy_[f'backbone.layers.{index}.{name}'].fill_(100 * (j + 1) + index + 1)
    return momentum


def marks(weights):
    """What each slot is filled with (a set where it is no one number), and the rest."""
    values = [set() for _ in range(8)] + [set()]
    for name, value in dict(weights).items():
        slot = int(name.split('.')[2]) if name.startswith('backbone.layers.') else 8
        values[slot].update(value.unique().tolist())
    return [next(iter(v)) if len(v) == 1 else v for v in values]


def apply(operator, model, depth=6, momentum=()):
    """Grow from depth 4, with momentum copies."""
    backbone = model.backbone
    backbone.set_subnet(Subnet(8, 32))
    backbone.min_depth = 4
    backbone.set_subnet(Subnet(4, 32))
    grow(backbone, Subnet(depth, 32), operator, model, momentum)


def filled(operator, before, after):
    """What an operator fills 8 slots of a number each with, which was k + 1."""
    slots = [dict(weight=torch.full((2, ), k + 1.)) for k in range(8)]
    operator.fill(slots, GroupGrowth(None, [None] * 8, before, after))
    return [slot['weight'][0].item() for slot in slots]


def weights_but(model, *slots):
    """All weights but those of some slots."""
    prefixes = tuple(f'backbone.layers.{slot}.' for slot in slots)
    return {
        name: value.clone()
        for name, value in model.state_dict().items()
        if not name.startswith((*prefixes, 'backbone.awake_subnet'))
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
        MoGrow=MoGrow,
        Keep=Keep)
    assert all(issubclass(cls, GrowthOperator) for cls in GROWTH_OPERATORS.module_dict.values())


@pytest.mark.parametrize('operator', [Interpolation(), MoGrow()])
@pytest.mark.parametrize('before, after, expected', [
    (FOUR, SIX, [1, 2, 3, 4, 5, 5, 7, 7]),
    (FOUR, EIGHT, [1, 1, 3, 3, 5, 5, 7, 7]),
    (SIX, EIGHT, [1, 1, 3, 3, 5, 6, 7, 8]),
    ((0, 3), EIGHT, [1, 1, 1, 4, 4, 4, 4, 4]),
    (SIX, SIX, [1, 2, 3, 4, 5, 6, 7, 8]),
])
def test_interpolation(operator, before, after, expected):
    assert filled(operator, before, after) == expected


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
    assert filled(Stacking(), before, after) == expected


# From 4 to 6, slots 5 and 7 wake. First the online weights, last the rest of the model.
@pytest.mark.parametrize('operator, online, momentum', [
    (Interpolation(), [1, 2, 3, 4, 5, 5, 7, 7, .5], [1, 2, 3, 4, 5, 5, 7, 7]),
    (Stacking(), [1, 2, 3, 4, 5, 7, 7, 3, .5], [1, 2, 3, 4, 5, 7, 7, 3]),
    (Keep(), [1, 2, 3, 4, 5, 6, 7, 8, .5], [1, 2, 3, 4, 5, 6, 7, 8]),
    # What is awake becomes the last copy, what sleeps stays.
    (MoGrow(), [201, 2, 203, 4, 205, 205, 207, 207, -2], [1, 2, 3, 4, 5, 5, 7, 7]),
], ids=lambda value: type(value).__name__)
def test_momentum_copies_grow_as_the_weights_do(operator, online, momentum):
    model = build_model()
    copies = mark(model)
    tensors = [*model.parameters(), *(v for copy_ in copies for v in copy_.values())]
    before = [(id(value), value.data_ptr()) for value in tensors]
    apply(operator, model, momentum=copies)
    assert marks(model.named_parameters()) == online
    for j, copy_ in enumerate(copies):
        assert marks(copy_) == [100 * (j + 1) + value for value in momentum] + [-(j + 1)]
    after = [*model.parameters(), *(v for copy_ in copies for v in copy_.values())]
    assert [(id(value), value.data_ptr()) for value in after] == before


@pytest.mark.parametrize('backbone', [
    dict(),
    dict(layer_scale_init_value=0.1),
    dict(layer_cfgs=dict(ffn_type='swiglu_fused')),
], ids=['plain', 'layer_scale', 'swiglu'])
@torch.no_grad()
def test_identity_init_keeps_the_function(backbone):
    """Of the online weights and of each momentum copy."""
    model = build_model(**backbone)
    for param in model.parameters():  # zeros, such as fresh biases, would hide a mistake
        param.copy_(torch.randn_like(param) * 0.3)
    model.eval()
    online = dict(model.named_parameters())
    copies = [{name: torch.randn_like(param) * 0.3 for name, param in online.items()}
              for _ in range(2)]
    rest = weights_but(model, 5, 7)
    images = torch.randn(2, 3, 32, 32)

    def logits(depth):
        model.backbone.set_subnet(Subnet(depth, 32))
        return [torch.func.functional_call(model, weights, (images, ))
                for weights in (online, *copies)]

    model.backbone.min_depth = 4
    before = logits(4)
    for one, other in zip(logits(6), before):
        assert not torch.allclose(one, other, atol=1e-3)
    apply(IdentityInit(), model, 6, copies)
    for one, other in zip(logits(6), before):
        assert torch.equal(one, other)
    assert_same(rest, weights_but(model, 5, 7))


def test_identity_init_zeroes_the_last_projections_alone():
    model = build_model()
    copies = mark(model)
    apply(IdentityInit(), model, momentum=copies)
    for weights, offset, other in ((dict(model.named_parameters()), 0, .5),
                                   (copies[0], 100, -1), (copies[1], 200, -2)):
        for name, param in weights.items():
            slot = int(name.split('.')[2]) if name.startswith('backbone.layers.') else None
            if slot in (5, 7) and ('.attn.proj.' in name or '.ffn.layers.1.' in name):
                value = 0
            else:
                value = other if slot is None else offset + 1 + {5: 4, 7: 6}.get(slot, slot)
            assert param.unique().tolist() == [value], name


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
    copies = mark(model)  # as training would
    cfg_before = copy.deepcopy(model.init_cfg)
    rest = weights_but(model, 5, 7)
    apply(RandomInit(), model, momentum=copies)

    slots = model.backbone.layers
    for index in (5, 7):
        assert_fresh(slots[index], attention_std)
    assert not torch.equal(slots[5].attn.qkv.weight, slots[7].attn.qkv.weight)
    assert not torch.equal(slots[5].ffn.layers[1].weight, slots[7].ffn.layers[1].weight)
    assert_same(rest, weights_but(model, 5, 7))
    assert model.init_cfg == cfg_before
    # The momentum copies of what woke equal it, and the others stay.
    for j, copy_ in enumerate(copies):
        for name, param in slots[5].named_parameters():
            assert torch.equal(copy_[f'backbone.layers.5.{name}'], param), name
        for name, param in slots[7].named_parameters():
            assert torch.equal(copy_[f'backbone.layers.7.{name}'], param), name
        values = marks(copy_)
        assert [values[k] for k in (0, 1, 2, 3, 4, 6)] == [
            100 * (j + 1) + value for value in (1, 2, 3, 4, 5, 7)]
        assert values[8] == -(j + 1)


def test_random_init_again():
    """Slots that were trained, slept and wake once more are as fresh as at first."""
    model = build_model()
    model.init_weights()
    apply(RandomInit(), model)
    first = model.backbone.layers[7].attn.qkv.weight.clone()
    mark(model)
    apply(RandomInit(), model)
    assert_fresh(model.backbone.layers[7], 0.02)
    assert not torch.equal(model.backbone.layers[7].attn.qkv.weight, first)


def test_random_init_is_that_of_a_new_classifier():
    model, new = build_model(), build_model()
    new.init_weights()
    mark(model)
    apply(RandomInit(), model, 8)
    for name, param in model.backbone.layers[7].named_parameters():
        fresh = new.backbone.layers[7].get_parameter(name)
        assert param.std().item() == pytest.approx(fresh.std().item(), rel=0.3, abs=1e-12), name
        assert abs(param.mean() - fresh.mean()) <= 0.6 * fresh.std(), name


def test_random_init_follows_the_layers_own_init_cfg():
    own = dict(type='Constant', layer='LayerNorm', val=0.7, bias=0.1)
    model = build_model(layer_cfgs=dict(init_cfg=own))
    model.init_weights()
    mark(model)
    apply(RandomInit(), model)
    for index in (5, 7):
        norm = model.backbone.layers[index].ln1
        assert norm.weight.unique().tolist() == pytest.approx([0.7])
        assert norm.bias.unique().tolist() == pytest.approx([0.1])


def test_random_init_of_layer_scale():
    model = build_model(layer_scale_init_value=0.1)
    model.init_weights()
    mark(model)
    apply(RandomInit(), model)
    for index in (5, 7):
        slot = model.backbone.layers[index]
        for name, param in slot.named_parameters():
            if 'gamma' in name:
                assert param.unique().tolist() == pytest.approx([0.1]), name
    assert model.backbone.layers[6].attn.gamma1.weight.unique().tolist() == [7]
