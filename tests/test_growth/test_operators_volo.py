# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Growth operators on ElasticVOLO, whose two groups of slots grow together."""
import functools
import re

import pytest
import torch
from mmpretrain.registry import MODELS, OPTIM_WRAPPERS
from mmpretrain.structures import DataSample

from autoprog_mm.growth import Subnet, grow
from autoprog_mm.growth.operators import build_operator

# 4 outlookers and 14 transformers in parts of 4, 8 and 2. With a smallest depth of 9 = 2 + 7
# they wake in the orders 0 2, 3 1 and 0 2 4 6 8 10 12, 13 11 9 7 5 3 1.
LARGE = dict(
    layers=(4, 4, 8, 2), embed_dims=(8, 16, 16, 16), num_heads=(2, 2, 2, 2), stem_hidden_dim=8)
LARGE_AWAKE = {
    9: ((0, 2), (0, 2, 4, 6, 8, 10, 12)),
    12: ((0, 1, 2, 3), (0, 2, 4, 6, 8, 10, 12, 13)),
    18: ((0, 1, 2, 3), tuple(range(14))),
}
# 2 outlookers and 4 transformers: with a smallest depth of 3 = 2 + 1 these wake from the left.
SMALL = dict(
    layers=(2, 2, 1, 1), embed_dims=(8, 16, 16, 16), num_heads=(2, 2, 2, 2), stem_hidden_dim=8)

# What waking slots copy: {slot: source} of the outlookers, then of the transformers.
INTERPOLATED = {
    ('large', 9, 12): ({1: 0, 3: 2}, {13: 12}),
    ('large', 12, 18): ({}, {1: 0, 3: 2, 5: 4, 7: 6, 9: 8, 11: 10}),
    ('large', 9, 18): ({1: 0, 3: 2}, {1: 0, 3: 2, 5: 4, 7: 6, 9: 8, 11: 10, 13: 12}),
    ('small', 4, 6): ({}, {2: 1, 3: 1}),
    ('small', 3, 6): ({}, {1: 0, 2: 0, 3: 0}),
}
STACKED = {
    # Outlookers 1 and 3 are layers 1 and 3 and copy old layer 1, slot 2; transformer 13 is
    # layer 7 of 8 and copies old layer 0 of 7, slot 0.
    ('large', 9, 12): ({1: 2, 3: 2}, {13: 0}),
    # Old layers 0 to 7 are slots 0 2 4 6 8 10 12 13; layers 1 3 5 7 9 11 wake.
    ('large', 12, 18): ({}, {1: 2, 3: 6, 5: 10, 7: 13, 9: 2, 11: 6}),
    # Old layers 0 to 6 are slots 0 2 4 ... 12: layers 7 9 11 13 copy 0 2 4 6.
    ('large', 9, 18): ({1: 2, 3: 2}, {1: 2, 3: 6, 5: 10, 7: 0, 9: 4, 11: 8, 13: 12}),
    ('small', 4, 6): ({}, {2: 0, 3: 1}),
    ('small', 3, 6): ({}, {1: 0, 2: 0, 3: 0}),
}
GROWTHS = list(INTERPOLATED)


def build(name, init_cfg=None, backbone_cfg=None):
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(
                type='ElasticVOLO', arch=dict(LARGE if name == 'large' else SMALL), img_size=32,
                patch_size=4, init_cfg=backbone_cfg),
            head=dict(type='VOLOHead', num_classes=5, in_channels=16),
            init_cfg=init_cfg))
    model.backbone.min_depth = 9 if name == 'large' else 3
    return model


@functools.lru_cache(None)
def shared(name):
    """One for all tests that set its weights and its depth."""
    return build(name)


def grown(operator, model, before, after, momentum=()):
    model.backbone.set_subnet(Subnet(before, 16))
    grow(model.backbone, Subnet(after, 32), build_operator(dict(type=operator)), model, momentum)


def slots_of(model):
    """(group, slot, module), and the prefix of its parameters' names."""
    parts = [(0, 0), (1, 2), (1, 3), (1, 4)]
    counts = [0, 0]
    for group, part in parts:
        for i, module in enumerate(model.backbone.network[part]):
            yield group, counts[group], module, f'backbone.network.{part}.{i}.'
            counts[group] += 1


@torch.no_grad()
def mark(model):
    """Outlooker k is k + 1, transformer k is k + 101, and the rest 0.5; in momentum copy j (which
    is returned) 1000 (j + 1) more, and the rest -(j + 1)."""
    for value in model.parameters():
        value.fill_(0.5)
    copies = [{name: torch.full_like(value, -(j + 1)) for name, value in model.named_parameters()}
              for j in range(2)]
    for group, slot, module, prefix in slots_of(model):
        for name, value in module.named_parameters():
            value.fill_(100 * group + slot + 1)
            for j, copy in enumerate(copies):
                copy[prefix + name].fill_(1000 * (j + 1) + 100 * group + slot + 1)
    return copies


def marks(model, weights):
    """What the slots of each group are filled with, and the rest."""
    values, rest = ([], []), dict(weights)
    for group, _, module, prefix in slots_of(model):
        of_slot = {v for name, _ in module.named_parameters()
                   for v in rest.pop(prefix + name).unique().tolist()}
        value, = of_slot
        values[group].append(value)
    return values, {v for value in rest.values() for v in value.unique().tolist()}


def expected(name, offset, sources=({}, {})):
    sizes = (4, 14) if name == 'large' else (2, 4)
    return tuple([offset + 100 * group + sources[group].get(slot, slot) + 1
                  for slot in range(size)] for group, size in enumerate(sizes))


@pytest.mark.parametrize('growth', GROWTHS, ids=str)
@pytest.mark.parametrize('operator', ['Interpolation', 'Stacking', 'MoGrow', 'Keep'])
def test_copies_by_hand(operator, growth):
    name, before, after = growth
    model = shared(name)
    copies = mark(model)
    ids = [id(value) for value in [*model.parameters(), *copies[0].values(), *copies[1].values()]]
    grown(operator, model, before, after, copies)
    assert model.backbone.awake_subnet == Subnet(after, 32)
    values, rest = marks(model, dict(model.named_parameters()))

    sources = dict(Stacking=STACKED[growth], Keep=({}, {})).get(operator, INTERPOLATED[growth])
    if operator == 'MoGrow':
        # What was awake, and all that wakes from it, is of the last momentum copy.
        awake = model.backbone.slots_at(after)
        adopted = expected(name, 2000, sources)
        assert values == tuple(
            [adopted[group][slot] if slot in awake[group] else online
             for slot, online in enumerate(expected(name, 0)[group])] for group in (0, 1))
        assert rest == {-2.}
    else:
        assert values == expected(name, 0, sources)
        assert rest == {0.5}
    for j, copy in enumerate(copies):
        assert marks(model, copy) == (expected(name, 1000 * (j + 1), sources), {-(j + 1.)})
    assert ids == [
        id(value) for value in [*model.parameters(), *copies[0].values(), *copies[1].values()]]


def test_awake_slots_of_the_large_one():
    model = shared('large')
    model.backbone.set_subnet(Subnet(9, 16))
    for depth, slots in LARGE_AWAKE.items():
        grow(model.backbone, Subnet(depth, 32), build_operator(dict(type='Interpolation')))
        assert model.backbone.awake_slots == slots
        for group, slot, module, _ in slots_of(model):
            assert all(p.requires_grad == (slot in slots[group]) for p in module.parameters())


@pytest.mark.parametrize('growth', [('large', 9, 12), ('small', 3, 6)], ids=str)
@torch.no_grad()
def test_identity_init_keeps_the_function(growth):
    """Of the online weights and of the momentum copy."""
    name, before, after = growth
    model = build(name)
    for param in model.parameters():  # zeros, such as fresh biases, would hide a mistake
        param.normal_(0.1, 0.3)
    for norm in model.backbone.patch_embed.conv[1::3]:
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    model.eval()
    online = dict(model.named_parameters())
    copy = {key: torch.randn_like(param) * 0.3 for key, param in online.items()}
    images = torch.randn(2, 3, 24, 24)

    def logits(depth):
        model.backbone.set_subnet(Subnet(depth, 32))
        return [torch.func.functional_call(model, weights, (images, ))
                for weights in (online, copy)]

    at_first = logits(before)
    for one, other in zip(logits(after), at_first):
        assert not torch.allclose(one, other, atol=1e-3)
    model.backbone.set_subnet(Subnet(before, 16))
    features, = model.backbone(images)
    grown('IdentityInit', model, before, after, [copy])
    for one, other in zip(logits(after), at_first):
        assert torch.equal(one, other)
    after_it, = model.backbone(images)
    assert torch.equal(after_it.class_token, features.class_token)
    assert torch.equal(after_it.tokens, features.tokens)


def test_identity_init_zeroes_the_last_projections_alone():
    model = shared('large')
    copies = mark(model)
    grown('IdentityInit', model, 9, 12, copies)
    sources = INTERPOLATED['large', 9, 12]
    for offset, weights in ((0, dict(model.named_parameters())), (1000, copies[0]),
                            (2000, copies[1])):
        for group, slot, module, prefix in slots_of(model):
            for name, _ in module.named_parameters():
                source = sources[group].get(slot)
                if source is None:
                    value = offset + 100 * group + slot + 1
                elif name.startswith(('attn.proj.', 'mlp.fc2.')):
                    value = 0
                else:
                    value = offset + 100 * group + source + 1
                assert weights[prefix + name].unique().tolist() == [value], name
        assert {name.rsplit('.', 1)[0] for name, p in weights.items() if p.eq(0).all()} == {
            f'backbone.network.{slot}.{projection}'
            for slot in ('0.1', '0.3', '4.1') for projection in ('attn.proj', 'mlp.fc2')}


def assert_fresh(slot, std=0.02):
    """As timm's constructor leaves a slot."""
    linears = [m for m in slot.modules() if isinstance(m, torch.nn.Linear)]
    norms = [m for m in slot.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert len(linears) in (4, 5) and len(norms) == 2
    assert len(linears) * 2 - 1 + 4 == len(list(slot.parameters()))  # one without a bias
    for linear in linears:
        # The smallest has 64 weights: 4 standard errors are 35 %.
        assert linear.weight.std().item() == pytest.approx(std, rel=0.35)
        assert abs(linear.weight.mean().item()) < 0.5 * std
        assert linear.bias is None or linear.bias.eq(0).all()
    for norm in norms:
        assert norm.weight.eq(1).all() and norm.bias.eq(0).all()


@pytest.mark.parametrize('growth', [('large', 9, 18), ('small', 4, 6)], ids=str)
def test_random_init(growth):
    name, before, after = growth
    model = build(name)
    model.init_weights()
    copies = mark(model)  # as training would
    rest = {key: value.clone() for key, value in model.state_dict().items()}
    grown('RandomInit', model, before, after, copies)
    waking = [(module, prefix) for group, slot, module, prefix in slots_of(model)
              if slot in INTERPOLATED[growth][group]]
    for module, _ in waking:
        assert_fresh(module)
    prefixes = tuple(prefix for _, prefix in waking)
    for key, value in model.state_dict().items():
        assert key.startswith(prefixes) or torch.equal(value, rest[key]), key
    weights = [module.mlp.fc1.weight for module, _ in waking]
    assert not any(torch.equal(a, b) for i, a in enumerate(weights) for b in weights[:i]
                   if a.shape == b.shape)
    # The momentum copies of what woke equal it, and nothing else has changed.
    fresh = {key: value.detach().clone() for key, value in model.named_parameters()}
    for copy, unchanged in zip(copies, mark(model)):
        for key, value in copy.items():
            assert torch.equal(value, fresh[key] if key.startswith(prefixes) else unchanged[key])


@pytest.mark.parametrize('where', ['init_cfg', 'backbone_cfg'])
def test_random_init_follows_init_cfg(where):
    own = [dict(type='TruncNormal', layer='Linear', std=.3),
           dict(type='Constant', layer='LayerNorm', val=0.7, bias=0.1)]
    model = build('large', **{where: own})
    mark(model)
    grown('RandomInit', model, 9, 18)
    for group, slot in ((0, 1), (0, 3), (1, 13), (1, 5)):
        module = model.backbone.slot_groups[group][slot]
        assert module.mlp.fc1.weight.std().item() == pytest.approx(0.3, rel=0.15)
        assert module.mlp.fc1.bias.eq(0).all()
        assert module.norm1.weight.unique().tolist() == pytest.approx([0.7])
        assert module.norm2.bias.unique().tolist() == pytest.approx([0.1])


def test_random_init_again():
    """Slots that were trained, slept and wake once more are as fresh as at first."""
    model = build('large')
    grown('RandomInit', model, 9, 12)
    first = model.backbone.slot_groups[0][3].mlp.fc1.weight.clone()
    mark(model)
    grown('RandomInit', model, 9, 12)
    for slot in (model.backbone.slot_groups[0][3], model.backbone.slot_groups[1][13]):
        assert_fresh(slot)
    assert not torch.equal(model.backbone.slot_groups[0][3].mlp.fc1.weight, first)


# ------------------------------------------------------------ with an optimizer


def wrap(model, depth, **kwargs):
    """An optimizer wrapper around a model of some depth."""
    wrapper = OPTIM_WRAPPERS.build(
        dict(
            type='MoGrowOptimWrapper',
            optimizer=torch.optim.AdamW(model.parameters(), lr=1e-3),
            ema_decays=(0.5, 0.9),
            **kwargs))
    model.backbone.set_subnet(Subnet(depth, 16))
    wrapper.initialize_count_status(model, 0, 10)
    return wrapper


def train(model, wrapper):
    model.train()
    samples = [DataSample().set_gt_label(label) for label in (1, 3)]
    losses = model(torch.randn(2, 3, 16, 16), samples, mode='loss')
    wrapper.update_params(sum(losses.values()))


@pytest.mark.parametrize('operator, state', [('MoGrow', 'keep'), ('RandomInit', 'reset')])
def test_a_run_of_growths(operator, state):
    """9, 12, 18: parameters stay the same objects, and all of them train."""
    model = build('large')
    wrapper = wrap(model, 9, growth=dict(type=operator), optimizer_state=state)
    before = {name: id(param) for name, param in model.named_parameters()}
    in_optimizer = [id(p) for group in wrapper.optimizer.param_groups for p in group['params']]
    copies = [{name: id(value) for name, value in wrapper.momentum_weights(j).items()}
              for j in range(2)]
    train(model, wrapper)
    for depth in (12, 18):
        was_awake = {name for name, param in model.named_parameters() if param.requires_grad}
        norms = [norm.running_mean.clone() for norm in model.backbone.patch_embed.conv[1::3]]
        wrapper.grow(model.backbone, Subnet(depth, 16))
        assert {name: id(param) for name, param in model.named_parameters()} == before
        assert [id(p) for g in wrapper.optimizer.param_groups for p in g['params']] == in_optimizer
        assert [{name: id(value) for name, value in wrapper.momentum_weights(j).items()}
                for j in range(2)] == copies
        assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(
            model.backbone.patch_embed.conv[1::3], norms))
        with_state = {name for name, param in model.named_parameters()
                      if param in wrapper.optimizer.state}
        assert with_state == (was_awake if state == 'keep' else set())
        values = {name: param.detach().clone() for name, param in model.named_parameters()}
        momentum = {name: value.clone() for name, value in wrapper.momentum_weights(0).items()}
        train(model, wrapper)
        slots = LARGE_AWAKE[depth]
        sleeping = tuple(prefix for group, slot, _, prefix in slots_of(model)
                         if slot not in slots[group])
        for name, param in model.named_parameters():
            asleep = name.startswith(sleeping)
            assert torch.equal(param, values[name]) == asleep, name
            assert torch.equal(wrapper.momentum_weights(0)[name], momentum[name]) == asleep, name


def test_waking_slots_start_without_moments():
    """Also those that were put to sleep behind the wrapper's back."""
    model = build('large')
    wrapper = wrap(model, 12, growth=dict(type='Interpolation'))
    train(model, wrapper)
    moments = {name for name, param in model.named_parameters() if param in wrapper.optimizer.state}
    model.backbone.set_subnet(Subnet(9, 16))
    wrapper.grow(model.backbone, Subnet(12, 16))
    left = {name for name, param in model.named_parameters() if param in wrapper.optimizer.state}
    assert left < moments
    # Outlookers 1 and 3, and transformer 13, the second of the last part.
    assert {re.match(r'backbone\.network\.\d\.\d', name)[0] for name in moments - left} == {
        'backbone.network.0.1', 'backbone.network.0.3', 'backbone.network.4.1'}


def test_refuses_to_shrink_a_group():
    """From 9 = 2 + 7 to 10 = 4 + 6, transformers would fall asleep."""
    model = shared('large')
    mark(model)
    for before, after in ((9, 10), (12, 9)):
        with pytest.raises(ValueError, match='A growth can only wake slots'):
            grown('Interpolation', model, before, after)
    assert marks(model, dict(model.named_parameters())) == (expected('large', 0), {0.5})
