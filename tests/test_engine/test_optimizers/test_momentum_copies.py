# Copyright (c) the autoprog_mm authors. All rights reserved.
import numpy as np
import pytest
import torch
import torch.nn as nn

from autoprog_mm.engine.optimizers import MomentumCopies
from autoprog_mm.utils.host_copy import HostCopy

# (1 + t) / (10 + t) from t = 0 on: a decay of 0.5 rules from t = 8, one of 0.3 from t = 3.
WARM_UP = [1 / 10, 2 / 11, 3 / 12, 4 / 13, 5 / 14, 6 / 15, 7 / 16, 8 / 17, 9 / 18, 10 / 19,
           11 / 20, 12 / 21]


def build(decays=(0.9, 0.99)):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    return model, MomentumCopies(model, decays)


@torch.no_grad()
def change(model):
    for param in model.parameters():
        param.normal_()


def values(named):
    return {name: value.detach().clone() for name, value in dict(named).items()}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_copies_begin_as_the_weights():
    model, momentum = build()
    for index in (0, 1):
        assert_same(momentum.weights(index), values(model.named_parameters()))
    params = {param.data_ptr() for param in model.parameters()}
    for index in (0, 1):
        assert not params & {copy.data_ptr() for copy in momentum.weights(index).values()}
        assert not any(copy.requires_grad for copy in momentum.weights(index).values())


def test_moving_average_with_its_warm_up():
    model, momentum = build((0.3, 0.5, 0.9996))
    used = [WARM_UP[:3] + [0.3] * 9, WARM_UP[:8] + [0.5] * 4, WARM_UP]
    expected = [{name: value.double().numpy() for name, value in momentum.weights().items()}] * 3
    for step in range(12):
        change(model)
        momentum.update()
        weights = {name: value.detach().double().numpy()
                   for name, value in model.named_parameters()}
        for index in range(3):
            d = used[index][step]
            expected[index] = {name: d * value + (1 - d) * weights[name]
                               for name, value in expected[index].items()}
            for name, copy in momentum.weights(index).items():
                np.testing.assert_allclose(copy.numpy(), expected[index][name], atol=2e-6)


def test_default_decays_after_the_warm_up():
    # 0.998 rules once (1 + t) / (10 + t) is larger, from t = 4490 on; 0.9996 from t = 22490 on.
    model, momentum = build((0.998, 0.9996))
    momentum.load_state_dict(dict(momentum.state_dict(), steps=100000))
    before = values(momentum.weights())
    change(model)
    momentum.update()
    for index, decay in enumerate((0.998, 0.9996)):
        for name, param in model.named_parameters():
            torch.testing.assert_close(
                momentum.weights(index)[name].double(),
                decay * before[name].double() + (1 - decay) * param.double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize('found_inf', [None, torch.zeros(1)])
def test_only_awake_parameters_move(found_inf):
    model, momentum = build()
    assert [id(param) for param in momentum.awake] == [id(param) for param in model.parameters()]
    for asleep in (0, 1):
        model.requires_grad_(True)
        model[asleep].requires_grad_(False)
        momentum.find_awake()
        assert [id(p) for p in momentum.awake] == [id(p) for p in model[1 - asleep].parameters()]
        before = values(momentum.weights())
        change(model)
        momentum.update(found_inf)
        for name, copy in momentum.weights().items():
            assert torch.equal(copy, before[name]) == name.startswith(f'{asleep}.'), name


def test_restart_begins_the_warm_up_again():
    model, momentum = build((0.9996, ))
    for _ in range(3):
        momentum.update()
    model[0].requires_grad_(False)
    momentum.restart()
    assert momentum.state_dict()['steps'] == 0
    assert len(momentum.awake) == 2
    before = values(momentum.weights())
    change(model)
    momentum.update()
    torch.testing.assert_close(
        momentum.weights()['1.weight'], 0.1 * before['1.weight'] + 0.9 * model[1].weight)


def test_left_out_on_a_device():
    """It moves nothing, to the bit, and is taken off the count as soon as somebody asks."""
    model, momentum = build((0.9996, ))
    momentum.update()
    change(model)
    before = values(momentum.weights())
    momentum.update(torch.ones(1))
    assert_same(momentum.weights(), before)
    assert momentum.state_dict()['steps'] == 1
    momentum.update(torch.ones(1))
    # The second step that is made, so 2 / 11.
    momentum.update(torch.zeros(1))
    for name, param in model.named_parameters():
        torch.testing.assert_close(
            momentum.weights()[name], 2 / 11 * before[name] + 9 / 11 * param)
    assert momentum.state_dict()['steps'] == 2


def test_left_out_is_read_a_step_later(monkeypatch):
    read = []
    get = HostCopy.get
    monkeypatch.setattr(HostCopy, 'get', lambda flag: read.append(flag) or get(flag))
    _, momentum = build()
    momentum.update(torch.ones(1))
    assert not read
    momentum.update(torch.zeros(1))
    assert len(read) == 1
    momentum.restart()  # the count begins again, whatever was left out
    assert momentum.state_dict()['steps'] == 0


def test_swap():
    model, momentum = build()
    change(model)
    momentum.update()
    ids = [(id(param), param.data_ptr()) for param in model.parameters()]
    weights = values(model.named_parameters())
    copies = [values(momentum.weights(index)) for index in (0, 1)]
    momentum.swap()
    assert momentum.swapped
    assert_same(values(model.named_parameters()), copies[1])
    assert_same(momentum.weights(), weights)
    assert_same(momentum.weights(0), copies[0])
    momentum.swap()
    assert not momentum.swapped
    assert_same(values(model.named_parameters()), weights)
    assert_same(momentum.weights(), copies[1])
    assert [(id(param), param.data_ptr()) for param in model.parameters()] == ids


def test_state():
    model, momentum = build()
    change(model)
    momentum.update()
    state = momentum.state_dict()
    assert state['steps'] == 1 and state['decays'] == [0.9, 0.99]
    _, other = build()
    pointers = [copy.data_ptr() for copy in other.weights().values()]
    other.load_state_dict(state)
    assert [copy.data_ptr() for copy in other.weights().values()] == pointers
    for index in (0, 1):
        assert_same(other.weights(index), momentum.weights(index))
    assert other.state_dict()['steps'] == 1
    state['copies'][1]['extra'] = state['copies'][1].pop('1.bias')
    with pytest.raises(ValueError, match=r"of another model.*\['1\.bias', 'extra'\]"):
        other.load_state_dict(state)
