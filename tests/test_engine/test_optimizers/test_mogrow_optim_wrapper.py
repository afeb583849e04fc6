# Copyright (c) the autoprog_mm authors. All rights reserved.
import functools

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmpretrain.registry import MODELS, OPTIM_WRAPPERS

from autoprog_mm import Subnet
from autoprog_mm.engine import MoGrowOptimWrapper
from autoprog_mm.growth import MoGrow, Stacking
from tests.micro import differences

# With a smallest depth of 2, the 4 slots wake in the order 0 2, 3 1.
# So a growth from 2 to 3 wakes slot 3, from slot 2.
SOURCES_2_TO_3 = {3: 2}
AWAKE_2 = (0, 2)


def build_model(device='cpu'):
    torch.manual_seed(0)
    arch = dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=32)
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='ElasticDeiT', arch=arch, img_size=16, patch_size=4),
            head=dict(type='VisionTransformerClsHead', num_classes=4, in_channels=16)))
    with torch.no_grad():
        for param in model.parameters():
            param.normal_(0.1, 0.3)
    return model.to(device)


def build_wrapper(model,
                  depth=2,
                  optimizer=None,
                  type='MoGrowOptimWrapper',
                  initialize=True,
                  **kwargs):
    """A wrapper built at full depth with two groups, as a Runner does, then put to sleep."""
    names = dict(model.named_parameters())
    optimizer = optimizer or functools.partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1)
    optimizer = optimizer([
        dict(params=[p for n, p in names.items() if not n.endswith('bias')]),
        dict(params=[p for n, p in names.items() if n.endswith('bias')], weight_decay=0.),
    ])
    wrapper = OPTIM_WRAPPERS.build(dict(type=type, optimizer=optimizer, **kwargs))
    model.backbone.min_depth = 2
    model.backbone.set_subnet(Subnet(depth, 16))
    if initialize:
        wrapper.initialize_count_status(model, 0, 1000)
    return wrapper


def build(depth=2, device='cpu', **kwargs):
    model = build_model(device)
    return model, build_wrapper(model, depth, **kwargs)


def train(model, wrapper, steps=1, seed=0):
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        images = torch.randn(4, 3, 16, 16, generator=generator).to(device)
        labels = torch.arange(4, device=device)
        with wrapper.optim_context(model):
            loss = torch.nn.functional.cross_entropy(model(images), labels)
        wrapper.update_params(loss)


def clones(named):
    return {name: value.detach().clone() for name, value in dict(named).items()}


def online(model):
    return clones(model.named_parameters())


def momentum(wrapper):
    return [clones(wrapper.momentum_weights(i)) for i in range(len(wrapper.ema_decays))]


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def slot_of(name):
    """The slot that a parameter belongs to, None for the rest of the model."""
    return int(name.split('.')[2]) if name.startswith('backbone.layers.') else None


def in_slot(name, slot):
    """The name of a slot's parameter in another slot."""
    parts = name.split('.')
    return '.'.join(parts[:2] + [str(slot)] + parts[3:])


def scatter(model, wrapper):
    """Make all online weights and copies different from one another."""
    torch.manual_seed(5)
    with torch.no_grad():
        for values in [dict(model.named_parameters())] + [
                wrapper.momentum_weights(i) for i in range(len(wrapper.ema_decays))]:
            for value in values.values():
                value.normal_()


def test_is_registered():
    assert OPTIM_WRAPPERS.get('MoGrowOptimWrapper') is MoGrowOptimWrapper
    assert issubclass(MoGrowOptimWrapper, OptimWrapper)


def test_defaults():
    _, wrapper = build()
    assert wrapper.ema_decays == (0.998, 0.9996)
    assert wrapper.optimizer_state == 'keep'
    assert isinstance(wrapper.growth_operator, MoGrow)


def test_operator_may_be_an_object():
    operator = Stacking()
    assert build(growth=operator)[1].growth_operator is operator


# ------------------------------------------------------------------- momentum


def test_takes_the_model_later():
    model, wrapper = build(initialize=False, ema_decays=(0.9, ))
    assert not wrapper.initialized and not wrapper.swapped
    wrapper.initialize_count_status(model, 0, 10)
    assert wrapper.initialized
    assert_same(momentum(wrapper)[0], online(model))
    wrapper.initialize_count_status(model, 0, 10)  # once more, as a second run does
    train(model, wrapper)
    assert wrapper.state_dict()['momentum']['steps'] == 1


def test_moves_on_real_optimizer_steps_only():
    model, wrapper = build(accumulative_counts=3)
    for _ in range(2):
        weights, copies = online(model), momentum(wrapper)
        train(model, wrapper, 2)  # gradients only
        assert_same(online(model), weights)
        for mine, before in zip(momentum(wrapper), copies):
            assert_same(mine, before)
        train(model, wrapper)
        assert not torch.equal(wrapper.momentum_weights()['backbone.cls_token'],
                               copies[-1]['backbone.cls_token'])
    # Two steps of six: the warm-up counts them, too.
    assert wrapper.state_dict()['momentum']['steps'] == 2


@pytest.mark.parametrize('depth, awake', [(2, AWAKE_2), (3, (0, 2, 3))])
def test_only_awake_parameters_move(depth, awake):
    model, wrapper = build(depth)
    scatter(model, wrapper)
    weights, copies = online(model), momentum(wrapper)
    train(model, wrapper, 2)
    for name in weights:
        moves = slot_of(name) is None or slot_of(name) in awake
        # Weight decay must not reach sleeping slots either.
        assert torch.equal(dict(model.named_parameters())[name], weights[name]) != moves, name
        for index in (0, 1):
            assert torch.equal(wrapper.momentum_weights(index)[name],
                               copies[index][name]) != moves, name


def test_momentum_of_a_wrapped_model():

    class Wrapped(torch.nn.parallel.DataParallel):
        pass

    model, wrapper = build(initialize=False)
    wrapper.initialize_count_status(Wrapped(model), 0, 10)
    assert list(wrapper.momentum_weights()) == [name for name, _ in model.named_parameters()]


def test_swap_momentum():
    model, wrapper = build()
    scatter(model, wrapper)
    weights, copies = online(model), momentum(wrapper)
    wrapper.swap_momentum()
    assert wrapper.swapped
    assert_same(online(model), copies[-1])
    wrapper.swap_momentum()
    assert not wrapper.swapped
    assert_same(online(model), weights)


# ---------------------------------------------------------------------- steps


def update(model, wrapper, factor=1.):
    """A step along the weights themselves."""
    loss = sum(param.square().sum() / 2 for param in model.parameters() if param.requires_grad)
    wrapper.update_params(loss * factor)


def sgd(**kwargs):
    return build(optimizer=functools.partial(torch.optim.SGD, lr=1., momentum=0.9), **kwargs)


@pytest.mark.parametrize('clip', [
    dict(max_norm=0.25), dict(max_norm=0.25, norm_type=1.), dict(clip_value=0.01, type='value')])
def test_clips(clip):
    model, wrapper = sgd(clip_grad=dict(clip))
    before = online(model)
    expected = torch.cat([p.flatten() for p in model.parameters() if p.requires_grad]).detach()
    if 'clip_value' in clip:
        expected = expected.clamp(-0.01, 0.01)
    else:
        expected *= 0.25 / expected.norm(clip.get('norm_type', 2.))
    update(model, wrapper)
    moves = torch.cat([(before[name] - param).flatten()
                       for name, param in model.named_parameters() if param.requires_grad])
    torch.testing.assert_close(moves, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize('clip', [None, dict(max_norm=0.25)])
def test_steps_that_are_not_finite_are_left_out(clip):
    model, wrapper = sgd(clip_grad=clip, accumulative_counts=2)
    assert wrapper.left_out is None
    for factor in (1., float('nan'), 1.):
        weights, copies, state = online(model), momentum(wrapper), state_of(model, wrapper)
        update(model, wrapper)
        assert wrapper.left_out is None  # there was no update
        update(model, wrapper, factor)
        assert wrapper.left_out.get() is (factor != 1)
        changed = [*differences(online(model), weights), *differences(momentum(wrapper), copies),
                   *differences(state_of(model, wrapper), state)]
        assert bool(changed) == (factor == 1)
    assert wrapper.state_dict()['momentum']['steps'] == 2


# --------------------------------------------------------------------- growth


def test_mogrow_makes_online_the_last_copy():
    model, wrapper = build(ema_decays=(0.9, 0.99))
    scatter(model, wrapper)
    weights, last = online(model), momentum(wrapper)[-1]
    wrapper.grow(model.backbone, Subnet(3, 12))
    assert model.backbone.awake_subnet == Subnet(3, 12)
    for name, param in model.named_parameters():
        slot = slot_of(name)
        if slot in SOURCES_2_TO_3:
            assert torch.equal(param, last[in_slot(name, SOURCES_2_TO_3[slot])]), name
        elif slot is None or slot in AWAKE_2:
            assert torch.equal(param, last[name]), name
        else:  # asleep before and after
            assert torch.equal(param, weights[name]), name


def test_mogrow_at_the_same_depth():
    model, wrapper = build()
    scatter(model, wrapper)
    copies = momentum(wrapper)
    wrapper.grow(model.backbone, Subnet(2, 12))
    assert model.backbone.awake_subnet == Subnet(2, 12)
    for name, param in model.named_parameters():
        if param.requires_grad:
            assert torch.equal(param, copies[-1][name]), name
    for mine, before in zip(momentum(wrapper), copies):
        assert_same(mine, before)


@pytest.mark.parametrize('growth', [
    'Interpolation', 'Stacking', 'IdentityInit', 'RandomInit', 'Keep'])
def test_other_operators_leave_what_is_awake(growth):
    """Online and in all momentum copies."""
    model, wrapper = build(growth=dict(type=growth), ema_decays=(0.9, 0.99, 0.999))
    scatter(model, wrapper)
    sets = [online(model), *momentum(wrapper)]
    wrapper.grow(model.backbone, Subnet(3, 16))
    for before, after in zip(sets, [online(model), *momentum(wrapper)]):
        for name, value in after.items():
            changes = slot_of(name) in SOURCES_2_TO_3 and growth != 'Keep'
            assert torch.equal(value, before[name]) != changes, name


def state_of(model, wrapper):
    """The optimizer's moments by parameter name, for those that have any."""
    state = wrapper.optimizer.state
    return {
        name: {key: torch.as_tensor(value).clone() for key, value in state[param].items()}
        for name, param in model.named_parameters() if state.get(param)
    }


def test_optimizer_state_is_kept():
    model, wrapper = build()
    train(model, wrapper, 3)
    before = state_of(model, wrapper)
    awake = {name for name, param in model.named_parameters() if param.requires_grad}
    assert before.keys() == awake
    wrapper.grow(model.backbone, Subnet(3, 16))
    after = state_of(model, wrapper)
    assert after.keys() == awake  # those that wake have none
    for name, state in before.items():
        assert_same(after[name], state)
    train(model, wrapper)
    steps = {name: state['step'].item() for name, state in state_of(model, wrapper).items()}
    for name, param in model.named_parameters():
        if param.requires_grad:
            assert steps.pop(name) == (1 if slot_of(name) in SOURCES_2_TO_3 else 4), name
    assert not steps


def test_optimizer_state_is_reset():
    model, wrapper = build(optimizer_state='reset')
    train(model, wrapper, 3)
    wrapper.grow(model.backbone, Subnet(3, 16))
    assert state_of(model, wrapper) == {}
    train(model, wrapper)
    state = state_of(model, wrapper)
    assert state.keys() == {n for n, param in model.named_parameters() if param.requires_grad}
    assert all(values['step'] == 1 for values in state.values())


@pytest.mark.parametrize('shrink', [True, False])
def test_optimizer_state_of_a_slot_that_wakes_again_is_gone(shrink):
    """A search trains a slot, the choice puts it to sleep, and the next growth wakes it."""
    model, wrapper = build()
    wrapper.grow(model.backbone, Subnet(3, 16))
    train(model, wrapper, 2)
    if shrink:
        wrapper.shrink(model.backbone, Subnet(2, 16))
    else:
        model.backbone.set_subnet(Subnet(2, 16))  # behind the wrapper's back
    wrapper.grow(model.backbone, Subnet(3, 16))
    state = state_of(model, wrapper)
    assert not any(slot_of(name) in SOURCES_2_TO_3 for name in state)
    assert any(slot_of(name) == 2 for name in state)


def test_warm_up_restarts():
    model, wrapper = build()
    train(model, wrapper, 2)
    assert wrapper.state_dict()['momentum']['steps'] == 2
    wrapper.grow(model.backbone, Subnet(3, 16))
    assert wrapper.state_dict()['momentum']['steps'] == 0


def test_nothing_is_replaced():
    model, wrapper = build()
    optimizer = wrapper.optimizer

    def identities():
        params = {name: id(param) for name, param in model.named_parameters()}
        groups = [(id(g), [id(param) for param in g['params']]) for g in optimizer.param_groups]
        copies = [{name: (id(value), value.data_ptr()) for name, value in
                   wrapper.momentum_weights(i).items()} for i in (0, 1)]
        return id(wrapper.optimizer), params, groups, copies

    before = identities()
    train(model, wrapper)
    wrapper.grow(model.backbone, Subnet(3, 16))
    train(model, wrapper)
    wrapper.grow(model.backbone, Subnet(4, 16))
    wrapper.shrink(model.backbone, Subnet(3, 16))
    train(model, wrapper)
    assert identities() == before


def test_what_woke_trains():
    model, wrapper = build()
    wrapper.grow(model.backbone, Subnet(3, 16))
    assert model.backbone.awake_slots == ((0, 2, 3), )
    weights, copies = online(model), momentum(wrapper)
    train(model, wrapper)
    for name, param in model.named_parameters():
        moves = slot_of(name) != 1
        assert torch.equal(param, weights[name]) != moves, name
        assert torch.equal(wrapper.momentum_weights()[name], copies[-1][name]) != moves, name


def test_shrink():
    model, wrapper = build(depth=4)
    train(model, wrapper, 3)
    weights, copies, state = online(model), momentum(wrapper), state_of(model, wrapper)
    wrapper.shrink(model.backbone, Subnet(3, 12))
    assert model.backbone.awake_subnet == Subnet(3, 12)
    assert model.backbone.awake_slots == ((0, 2, 3), )
    assert_same(online(model), weights)
    for mine, before in zip(momentum(wrapper), copies):
        assert_same(mine, before)
    after = state_of(model, wrapper)
    assert after.keys() == {name for name in state if slot_of(name) != 1}
    for name in after:
        assert_same(after[name], state[name])
    # It is no growth: the warm-up goes on.
    assert wrapper.state_dict()['momentum']['steps'] == 3

    train(model, wrapper)
    for name, param in model.named_parameters():
        moves = slot_of(name) != 1
        assert torch.equal(param, weights[name]) != moves, name
        assert torch.equal(wrapper.momentum_weights()[name], copies[-1][name]) != moves, name


@pytest.mark.parametrize('subnet, match', [
    (Subnet(2, 16), r'can only wake slots'),
    (Subnet(5, 16), r'depth must be between min_depth \(2\) and the full depth .* got 5'),
    (Subnet(4, 14), r'resolution \(14\) must be divisible by 4'),
])
def test_grow_errors(subnet, match):
    model, wrapper = build(depth=3)
    scatter(model, wrapper)
    weights, copies = online(model), momentum(wrapper)
    with pytest.raises(ValueError, match=match):
        wrapper.grow(model.backbone, subnet)
    # Nothing has happened.
    assert model.backbone.awake_subnet == Subnet(3, 16)
    assert_same(online(model), weights)
    for mine, before in zip(momentum(wrapper), copies):
        assert_same(mine, before)


@pytest.mark.parametrize('subnet, match', [
    (Subnet(4, 16), r'shrink\(\) can only put slots to sleep, but 4x16 is deeper .* use grow'),
    (Subnet(1, 16), r'depth must be between min_depth \(2\)'),
    (Subnet(2, 14), r'resolution \(14\) must be divisible by 4'),
])
def test_shrink_errors(subnet, match):
    model, wrapper = build(depth=3)
    with pytest.raises(ValueError, match=match):
        wrapper.shrink(model.backbone, subnet)
    assert model.backbone.awake_subnet == Subnet(3, 16)


# --------------------------------------------------------------------- errors


@pytest.mark.parametrize('kwargs, match', [
    (dict(ema_decays=()), r'ema_decays of the optimizer wrapper must not be empty'),
    (dict(ema_decays=[]), r'ema_decays of the optimizer wrapper must not be empty'),
    (dict(ema_decays=(0.9, 1.)), r'each of ema_decays .* be a number in \(0, 1\), but got 1\.0'),
    (dict(ema_decays=(0., )), r'must be a number in \(0, 1\), but got 0\.0'),
    (dict(ema_decays=(-0.1, 0.9)), r'must be a number in \(0, 1\)'),
    (dict(ema_decays=(float('nan'), )), r'must be a number in \(0, 1\)'),
    (dict(ema_decays=1), r'must be a number in \(0, 1\), but got 1'),
    (dict(ema_decays='0.9'), r"must be a number in \(0, 1\), but got '0\.9'"),
    (dict(growth=dict(type='Mogrow')), r"type of \['IdentityInit', .*, but got \{'type': 'Mogrow'"),
    (dict(growth='MoGrow'), r"growth of the optimizer wrapper must be a dict .* got 'MoGrow'"),
    (dict(growth=dict(kind='MoGrow')), r'growth of the optimizer wrapper must be a dict'),
    (dict(optimizer_state='forget'),
     r"optimizer_state must be one of \('keep', 'reset'\), but got 'forget'"),
])
def test_build_errors(kwargs, match):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(ValueError, match=match):
        MoGrowOptimWrapper(optimizer=optimizer, **kwargs)


@pytest.mark.parametrize('kwargs, match', [
    (dict(ema_decay=0.99), r"unexpected keyword argument 'ema_decay'"),
    (dict(optimiser_state='keep'), r"unexpected keyword argument 'optimiser_state'"),
    (dict(growth=dict(type='MoGrow', momentum=0.9)), r'MoGrow\(\) takes no arguments'),
])
def test_mistyped_arguments(kwargs, match):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(TypeError, match=match):
        MoGrowOptimWrapper(optimizer=optimizer, **kwargs)


def test_config_is_not_changed():
    cfg = dict(type='MoGrow')
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    MoGrowOptimWrapper(optimizer=optimizer, growth=cfg)
    assert cfg == dict(type='MoGrow')
