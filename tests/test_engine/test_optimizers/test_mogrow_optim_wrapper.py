# Copyright (c) the autoprog_mm authors. All rights reserved.
import copy
import functools
import io

import numpy as np
import pytest
import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmpretrain.registry import MODELS, OPTIM_WRAPPERS

from autoprog_mm import Subnet
from autoprog_mm.engine import AmpMoGrowOptimWrapper, MoGrowOptimWrapper
from autoprog_mm.growth import MoGrow, Stacking

# With a smallest depth of 4, the 8 slots wake in the order 0 2 4 6, 7 5 3 1.
# So a growth from 4 to 6 wakes 5, from slot 4, and 7, from slot 6.
SOURCES_4_TO_6 = {5: 4, 7: 6}
AWAKE_4 = (0, 2, 4, 6)


def build_model(device='cpu'):
    torch.manual_seed(0)
    arch = dict(embed_dims=16, num_layers=8, num_heads=2, feedforward_channels=32)
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='ElasticDeiT', arch=arch, img_size=32, patch_size=4),
            head=dict(type='VisionTransformerClsHead', num_classes=4, in_channels=16)))
    with torch.no_grad():
        for param in model.parameters():
            param.normal_(0.1, 0.3)
    return model.to(device)


def build_wrapper(model,
                  depth=4,
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
    model.backbone.min_depth = 4
    model.backbone.set_subnet(Subnet(depth, 32))
    if initialize:
        wrapper.initialize_count_status(model, 0, 1000)
    return wrapper


def build(depth=4, device='cpu', **kwargs):
    model = build_model(device)
    return model, build_wrapper(model, depth, **kwargs)


def train(model, wrapper, steps=1, seed=0):
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        images = torch.randn(4, 3, 32, 32, generator=generator).to(device)
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


def test_are_registered():
    assert OPTIM_WRAPPERS.get('MoGrowOptimWrapper') is MoGrowOptimWrapper
    assert OPTIM_WRAPPERS.get('AmpMoGrowOptimWrapper') is AmpMoGrowOptimWrapper
    assert issubclass(MoGrowOptimWrapper, OptimWrapper)
    assert issubclass(AmpMoGrowOptimWrapper, AmpOptimWrapper)


def test_defaults():
    _, wrapper = build()
    assert wrapper.ema_decays == (0.998, 0.9996)
    assert wrapper.optimizer_state == 'keep'
    assert isinstance(wrapper.growth_operator, MoGrow)


def test_operator_may_be_an_object():
    operator = Stacking()
    assert build(growth=operator)[1].growth_operator is operator


# ------------------------------------------------------------------- momentum


def test_copies_begin_as_the_weights():
    model, wrapper = build(initialize=False)
    assert not wrapper.initialized
    wrapper.initialize_count_status(model, 0, 10)
    assert wrapper.initialized
    weights = online(model)
    for copies in momentum(wrapper):
        assert_same(copies, weights)
    params = {id(param) for param in model.parameters()}
    for index in (0, 1):
        assert not params & {id(copy) for copy in wrapper.momentum_weights(index).values()}


def test_momentum_is_the_moving_average_with_its_warm_up():
    model, wrapper = build(ema_decays=(0.3, 0.5, 0.9996))
    # (1 + t) / (10 + t) from t = 0 on: a decay of 0.5 rules from t = 8, one of 0.3 from t = 3.
    warm_up = [1 / 10, 2 / 11, 3 / 12, 4 / 13, 5 / 14, 6 / 15, 7 / 16, 8 / 17, 9 / 18, 10 / 19,
               11 / 20, 12 / 21]
    used = [
        [1 / 10, 2 / 11, 3 / 12] + [0.3] * 9,
        warm_up[:8] + [0.5] * 4,
        warm_up,
    ]
    expected = [{name: value.double().numpy() for name, value in online(model).items()}] * 3
    for step in range(12):
        before = online(model)
        train(model, wrapper, seed=step)
        weights = {name: value.double().numpy() for name, value in online(model).items()}
        assert np.abs(weights['head.layers.head.weight'] -
                      before['head.layers.head.weight'].numpy()).max() > 1e-3
        for index in range(3):
            d = used[index][step]
            expected[index] = {
                name: d * value + (1 - d) * weights[name]
                for name, value in expected[index].items()
            }
            for name, copy_ in wrapper.momentum_weights(index).items():
                np.testing.assert_allclose(copy_.numpy(), expected[index][name], atol=2e-6)


def test_default_copies_differ_after_the_warm_up():
    # 0.998 rules once (1 + t) / (10 + t) is larger, from t = 4490 on; 0.9996 from t = 22490 on.
    model, wrapper = build()
    scatter(model, wrapper)
    before, weights = momentum(wrapper), online(model)
    state = copy.deepcopy(wrapper.state_dict())
    state['momentum']['steps'] = 100000
    wrapper.load_state_dict(state)
    for group in wrapper.optimizer.param_groups:
        group['lr'] = 0.
    train(model, wrapper)
    assert_same(online(model), weights)
    name = 'head.layers.head.weight'
    for index, decay in enumerate((0.998, 0.9996)):
        expected = decay * before[index][name].double() + (1 - decay) * weights[name].double()
        torch.testing.assert_close(
            wrapper.momentum_weights(index)[name].double(), expected, atol=1e-6, rtol=0)


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


@pytest.mark.parametrize('depth, awake', [(4, AWAKE_4), (6, (0, 2, 4, 5, 6, 7))])
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
    ids = [id(param) for param in model.parameters()]
    weights, copies = online(model), momentum(wrapper)
    wrapper.swap_momentum()
    assert_same(online(model), copies[-1])
    assert_same(momentum(wrapper)[-1], weights)
    assert_same(momentum(wrapper)[0], copies[0])
    assert [id(param) for param in model.parameters()] == ids
    wrapper.swap_momentum()
    assert_same(online(model), weights)
    assert_same(momentum(wrapper)[-1], copies[-1])


# --------------------------------------------------------------------- growth


def test_momentum_copies_grow_from_their_own_sources():
    model, wrapper = build(growth=dict(type='RandomInit'), ema_decays=(0.9, 0.99, 0.999))
    scatter(model, wrapper)
    copies = momentum(wrapper)
    wrapper.grow(model.backbone, Subnet(6, 32))
    for index, before in enumerate(copies):
        for name, value in wrapper.momentum_weights(index).items():
            slot = slot_of(name)
            source = in_slot(name, SOURCES_4_TO_6[slot]) if slot in SOURCES_4_TO_6 else name
            assert torch.equal(value, before[source]), name


def test_mogrow_makes_online_the_last_copy():
    model, wrapper = build(ema_decays=(0.9, 0.99))
    scatter(model, wrapper)
    weights, last = online(model), momentum(wrapper)[-1]
    wrapper.grow(model.backbone, Subnet(6, 24))
    assert model.backbone.awake_subnet == Subnet(6, 24)
    for name, param in model.named_parameters():
        slot = slot_of(name)
        if slot in SOURCES_4_TO_6:
            assert torch.equal(param, last[in_slot(name, SOURCES_4_TO_6[slot])]), name
        elif slot is None or slot in AWAKE_4:
            assert torch.equal(param, last[name]), name
        else:  # asleep before and after
            assert torch.equal(param, weights[name]), name


def test_mogrow_at_the_same_depth():
    model, wrapper = build()
    scatter(model, wrapper)
    copies = momentum(wrapper)
    wrapper.grow(model.backbone, Subnet(4, 24))
    assert model.backbone.awake_subnet == Subnet(4, 24)
    for name, param in model.named_parameters():
        if param.requires_grad:
            assert torch.equal(param, copies[-1][name]), name
    for mine, before in zip(momentum(wrapper), copies):
        assert_same(mine, before)


@pytest.mark.parametrize('growth', ['Interpolation', 'Stacking', 'IdentityInit', 'RandomInit'])
def test_other_operators_leave_what_is_awake(growth):
    model, wrapper = build(growth=dict(type=growth))
    scatter(model, wrapper)
    weights = online(model)
    wrapper.grow(model.backbone, Subnet(6, 32))
    for name, param in model.named_parameters():
        assert torch.equal(param, weights[name]) == (slot_of(name) not in SOURCES_4_TO_6), name


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
    wrapper.grow(model.backbone, Subnet(6, 32))
    after = state_of(model, wrapper)
    assert after.keys() == awake  # those that wake have none
    for name, state in before.items():
        assert_same(after[name], state)
    train(model, wrapper)
    steps = {name: state['step'].item() for name, state in state_of(model, wrapper).items()}
    for name, param in model.named_parameters():
        if param.requires_grad:
            assert steps.pop(name) == (1 if slot_of(name) in SOURCES_4_TO_6 else 4), name
    assert not steps


def test_optimizer_state_is_reset():
    model, wrapper = build(optimizer_state='reset')
    train(model, wrapper, 3)
    wrapper.grow(model.backbone, Subnet(6, 32))
    assert state_of(model, wrapper) == {}
    train(model, wrapper)
    state = state_of(model, wrapper)
    assert state.keys() == {n for n, param in model.named_parameters() if param.requires_grad}
    assert all(values['step'] == 1 for values in state.values())


@pytest.mark.parametrize('shrink', [True, False])
def test_optimizer_state_of_a_slot_that_wakes_again_is_gone(shrink):
    """A search trains a slot, the choice puts it to sleep, and the next growth wakes it."""
    model, wrapper = build()
    wrapper.grow(model.backbone, Subnet(6, 32))
    train(model, wrapper, 2)
    if shrink:
        wrapper.shrink(model.backbone, Subnet(4, 32))
    else:
        model.backbone.set_subnet(Subnet(4, 32))  # behind the wrapper's back
    wrapper.grow(model.backbone, Subnet(6, 32))
    state = state_of(model, wrapper)
    assert not any(slot_of(name) in SOURCES_4_TO_6 for name in state)
    assert any(slot_of(name) == 4 for name in state)


def test_warm_up_restarts():
    model, wrapper = build()
    train(model, wrapper, 5)
    wrapper.grow(model.backbone, Subnet(6, 32))
    for step, d in enumerate((1 / 10, 2 / 11, 3 / 12)):
        before = momentum(wrapper)
        train(model, wrapper, seed=step)
        weights = online(model)
        for index in (0, 1):
            for name, param in model.named_parameters():
                expected = before[index][name]
                if param.requires_grad:
                    expected = d * expected.double() + (1 - d) * weights[name].double()
                torch.testing.assert_close(
                    wrapper.momentum_weights(index)[name].double(), expected.double(),
                    atol=1e-6, rtol=0)


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
    wrapper.grow(model.backbone, Subnet(6, 32))
    train(model, wrapper)
    wrapper.grow(model.backbone, Subnet(8, 32))
    wrapper.shrink(model.backbone, Subnet(7, 32))
    train(model, wrapper)
    assert identities() == before


def test_what_woke_trains():
    model, wrapper = build()
    wrapper.grow(model.backbone, Subnet(6, 32))
    assert model.backbone.awake_slots == ((0, 2, 4, 5, 6, 7), )
    weights, copies = online(model), momentum(wrapper)
    train(model, wrapper)
    for name, param in model.named_parameters():
        moves = slot_of(name) not in (1, 3)
        assert torch.equal(param, weights[name]) != moves, name
        assert torch.equal(wrapper.momentum_weights()[name], copies[-1][name]) != moves, name


def test_shrink():
    model, wrapper = build(depth=6)
    train(model, wrapper, 3)
    weights, copies, state = online(model), momentum(wrapper), state_of(model, wrapper)
    wrapper.shrink(model.backbone, Subnet(5, 24))
    assert model.backbone.awake_subnet == Subnet(5, 24)
    assert model.backbone.awake_slots == ((0, 2, 4, 6, 7), )
    assert_same(online(model), weights)
    for mine, before in zip(momentum(wrapper), copies):
        assert_same(mine, before)
    after = state_of(model, wrapper)
    assert after.keys() == {name for name in state if slot_of(name) != 5}
    for name in after:
        assert_same(after[name], state[name])
    # It is no growth: the warm-up goes on.
    assert wrapper.state_dict()['momentum']['steps'] == 3

    train(model, wrapper)
    for name, param in model.named_parameters():
        moves = slot_of(name) not in (1, 3, 5)
        assert torch.equal(param, weights[name]) != moves, name
        assert torch.equal(wrapper.momentum_weights()[name], copies[-1][name]) != moves, name


@pytest.mark.parametrize('subnet, match', [
    (Subnet(4, 32), r'can only wake slots'),
    (Subnet(9, 32), r'depth must be between min_depth \(4\) and the full depth .* got 9'),
    (Subnet(6, 30), r'resolution \(30\) must be divisible by 4'),
])
def test_grow_errors(subnet, match):
    model, wrapper = build(depth=5)
    train(model, wrapper)
    weights, copies = online(model), momentum(wrapper)
    with pytest.raises(ValueError, match=match):
        wrapper.grow(model.backbone, subnet)
    # Nothing has happened.
    assert model.backbone.awake_subnet == Subnet(5, 32)
    assert_same(online(model), weights)
    for mine, before in zip(momentum(wrapper), copies):
        assert_same(mine, before)


@pytest.mark.parametrize('subnet, match', [
    (Subnet(6, 32), r'shrink\(\) can only put slots to sleep, but 6x32 .* use grow'),
    (Subnet(3, 32), r'depth must be between min_depth \(4\)'),
    (Subnet(4, 30), r'resolution \(30\) must be divisible by 4'),
])
def test_shrink_errors(subnet, match):
    model, wrapper = build(depth=5)
    with pytest.raises(ValueError, match=match):
        wrapper.shrink(model.backbone, subnet)
    assert model.backbone.awake_subnet == Subnet(5, 32)


# ---------------------------------------------------------------- checkpoints


def saved(state):
    """What a file of it gives back, loaded without running code."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_states_equal(first, second):
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_states_equal(first[key], second[key])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for one, other in zip(first, second):
            assert_states_equal(one, other)
    elif isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype and torch.equal(first, second)
    else:
        assert first == second


@pytest.mark.parametrize('before_the_model', [True, False])
@pytest.mark.parametrize('grown', [True, False])
def test_state_round_trip(before_the_model, grown):
    model, wrapper = build()
    train(model, wrapper, 2)
    if grown:
        wrapper.grow(model.backbone, Subnet(6, 32))
        train(model, wrapper, 3, seed=1)
    checkpoint = saved(dict(model=model.state_dict(), optimizer=wrapper.state_dict()))
    copies = momentum(wrapper)

    torch.manual_seed(99)
    other = build_model()
    with torch.no_grad():
        for param in other.parameters():
            param.normal_()
    resumed = build_wrapper(
        other, model.backbone.awake_subnet.depth, initialize=not before_the_model)
    other.load_state_dict(checkpoint['model'])
    resumed.load_state_dict(checkpoint['optimizer'])
    if before_the_model:
        resumed.initialize_count_status(other, 5, 1000)

    assert_states_equal(resumed.state_dict(), saved(wrapper.state_dict()))
    for mine, before in zip(momentum(resumed), copies):
        assert_same(mine, before)
    # Both go on in the same way, the warm-up included.
    for m, w in ((model, wrapper), (other, resumed)):
        train(m, w, 2, seed=7)
        w.grow(m.backbone, Subnet(8, 32))
        train(m, w, 2, seed=8)
    assert_same(online(other), online(model))
    assert_states_equal(resumed.state_dict(), wrapper.state_dict())


def test_loading_changes_neither_the_state_nor_what_is_loaded_later():
    model, wrapper = build()
    train(model, wrapper)
    state = saved(wrapper.state_dict())
    untouched = copy.deepcopy(state)
    for initialize in (True, False):
        other, resumed = build(initialize=initialize)
        resumed.load_state_dict(state)
        resumed.initialize_count_status(other, 1, 10)
        train(other, resumed)
        assert_states_equal(state['momentum'], untouched['momentum'])
        assert state.keys() == untouched.keys()


def test_state_has_plain_names():
    model, wrapper = build(ema_decays=(0.9, 0.99, 0.999))
    train(model, wrapper, 2)
    state = wrapper.state_dict()['momentum']
    assert state['steps'] == 2 and state['decays'] == [0.9, 0.99, 0.999]
    names = [name for name, _ in model.named_parameters()]
    assert [list(copies) for copies in state['copies']] == [names] * 3


def test_load_errors():
    model, wrapper = build()
    train(model, wrapper)
    state = saved(wrapper.state_dict())
    plain = {key: value for key, value in state.items() if key != 'momentum'}
    with pytest.raises(ValueError, match=r'no momentum copies, so it is not of a MoGrowOptimWr'):
        build()[1].load_state_dict(plain)
    match = r'ema_decays is \[0\.9, 0\.99\], but the checkpoint was made with \[0\.998, 0\.9996\]'
    with pytest.raises(ValueError, match=match):
        build(ema_decays=(0.9, 0.99))[1].load_state_dict(state)
    for copies in state['momentum']['copies']:
        copies['backbone.extra'] = copies.pop('backbone.cls_token')
    match = r"momentum copies are of another model.*\['backbone\.cls_token', 'backbone\.extra'\]"
    with pytest.raises(ValueError, match=match):
        build()[1].load_state_dict(state)


# --------------------------------------------------------------------- errors


@pytest.mark.parametrize('kwargs, match', [
    (dict(ema_decays=()), r'ema_decays of the optimizer wrapper must not be empty'),
    (dict(ema_decays=[]), r'ema_decays of the optimizer wrapper must not be empty'),
    (dict(ema_decays=(0.9, 1.)), r'must be floats in \(0, 1\), but got \(0\.9, 1\.0\)'),
    (dict(ema_decays=(0., )), r'must be floats in \(0, 1\), but got \(0\.0,\)'),
    (dict(ema_decays=(-0.1, 0.9)), r'must be floats in \(0, 1\)'),
    (dict(ema_decays=(float('nan'), )), r'must be floats in \(0, 1\)'),
    (dict(ema_decays=1), r'must be floats in \(0, 1\), but got 1'),
    (dict(ema_decays='0.9'), r"must be floats in \(0, 1\), but got '0\.9'"),
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


# ------------------------------------------------------------- mixed precision

needs_cuda = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device'),
]
DEVICES = [pytest.param('cuda', marks=needs_cuda), 'cpu']


class CPUGradScaler(torch.amp.GradScaler):

    def __init__(self, **kwargs):
        super().__init__('cpu', **kwargs)


@pytest.fixture(params=DEVICES)
def device(request, monkeypatch):
    """CUDA, and the CPU with a scaler of its own, since mmengine's refuses it."""
    if request.param == 'cpu':
        monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
        monkeypatch.setattr(amp_optimizer_wrapper, 'GradScaler', CPUGradScaler)
    return request.param


def build_amp(device, dtype, **kwargs):
    return build(device=device, type='AmpMoGrowOptimWrapper', dtype=dtype, **kwargs)


def test_bfloat16_uses_no_scaler(device):
    model, wrapper = build_amp(device, 'bfloat16')
    assert not wrapper.loss_scaler.is_enabled()
    assert wrapper.loss_scaler.scale(torch.tensor(3., device=device)).item() == 3.
    with wrapper.optim_context(model):
        assert model(torch.randn(2, 3, 32, 32, device=device)).dtype == torch.bfloat16
    before = momentum(wrapper)
    train(model, wrapper)
    weights = online(model)
    for name, param in model.named_parameters():
        expected = before[-1][name].double()
        if param.requires_grad:  # 1 / 10 is the first decay of the warm-up
            expected = 0.1 * expected + 0.9 * weights[name].double()
        torch.testing.assert_close(
            wrapper.momentum_weights()[name].double(), expected, atol=1e-6, rtol=0)
        assert param.dtype == wrapper.momentum_weights()[name].dtype == torch.float32


def test_float16_uses_a_scaler(device):
    assert build_amp(device, 'float16')[1].loss_scaler.is_enabled()


@pytest.mark.parametrize('fused', [False, True])
def test_step_that_the_scaler_leaves_out_moves_nothing(device, fused):
    # A fused optimizer is called for such a step as well, and leaves it out itself.
    optimizer = functools.partial(torch.optim.AdamW, lr=0.01, fused=fused)
    model, wrapper = build_amp(
        device, 'float16', optimizer=optimizer, loss_scale=dict(init_scale=16.))
    scatter(model, wrapper)

    def step(factor):
        loss = sum(param.square().sum() for param in model.parameters() if param.requires_grad)
        wrapper.update_params(loss * factor)

    step(1e-3)
    weights, copies = online(model), momentum(wrapper)
    assert wrapper.state_dict()['momentum']['steps'] == 1

    step(float('inf'))
    assert wrapper.loss_scaler.get_scale() == 8.  # it saw the inf
    assert_same(online(model), weights)
    for mine, before in zip(momentum(wrapper), copies):
        assert_same(mine, before)
    assert wrapper.state_dict()['momentum']['steps'] == 1

    step(1e-3)
    assert wrapper.state_dict()['momentum']['steps'] == 2
    assert not torch.equal(wrapper.momentum_weights()['backbone.cls_token'],
                           copies[-1]['backbone.cls_token'])


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_amp_state_round_trip(device, dtype):
    model, wrapper = build_amp(device, dtype)
    if dtype == 'bfloat16' or device == 'cuda':  # mmengine has no float16 on the CPU
        train(model, wrapper, 3)
    wrapper.grow(model.backbone, Subnet(6, 32))
    state = saved(wrapper.state_dict())
    other, resumed = build_amp(device, dtype, depth=6, initialize=False)
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(state)
    resumed.initialize_count_status(other, 3, 1000)
    assert_states_equal(resumed.state_dict(), wrapper.state_dict())
