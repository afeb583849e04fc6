# Copyright (c) the autoprog_mm authors. All rights reserved.
import pytest
import torch
import torch.nn as nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from autoprog_mm.engine.optimizers import FiniteSteps
from autoprog_mm.utils.host_copy import HostCopy

# Of two weights: norm 5, of which 0.5 is a tenth.
FINITE = (3., 4.)
NOT_FINITE = [(3., float('nan')), (float('inf'), 4.), (-float('inf'), float('nan'))]


def build(fused=False, norm_type=None):
    params = [nn.Parameter(torch.zeros(1)) for _ in range(3)]
    optimizer = torch.optim.SGD(params, lr=1., fused=fused)
    return params, optimizer, FiniteSteps(optimizer, norm_type)


def set_gradients(params, gradients):
    for param, gradient in zip(params, gradients):
        param.grad = torch.tensor([gradient])


def weights(params):
    return [param.item() for param in params]


@pytest.fixture
def late(monkeypatch):
    """The CPU as if it were a device whose numbers are not to be waited for."""
    monkeypatch.setattr(HostCopy, 'is_late', staticmethod(lambda tensor: True))


@pytest.mark.parametrize('norm_type', [None, 2., float('inf')])
@pytest.mark.parametrize('gradients', NOT_FINITE)
def test_left_out_by_the_host(gradients, norm_type):
    params, optimizer, steps = build(norm_type=norm_type)
    set_gradients(params, gradients)
    steps.step(params, optimizer.step)
    assert weights(params) == [0, 0, 0] and steps.left_out.get() is True
    set_gradients(params, FINITE)
    steps.step(params, optimizer.step)
    assert weights(params) == [-3, -4, 0] and steps.left_out.get() is False


def test_without_gradients_nobody_looks():
    params, optimizer, steps = build()
    calls = []
    steps.step(params, lambda: calls.append(1))
    assert calls == [1] and steps.left_out is None


@pytest.mark.parametrize('gradients', NOT_FINITE)
def test_left_out_by_the_device(late, monkeypatch, gradients):
    """The optimizer is called, gets `found_inf`, and nothing is read."""
    params, optimizer, steps = build(fused=True)
    monkeypatch.setattr(HostCopy, 'get', lambda flag: pytest.fail('waited for the device'))
    seen = []
    for values in (gradients, FINITE):
        set_gradients(params, values)
        steps.step(params, lambda: (seen.append(optimizer.found_inf.item()), optimizer.step()))
        assert not hasattr(optimizer, 'found_inf') and not hasattr(optimizer, 'grad_scale')
    assert seen == [1, 0]
    assert weights(params) == [-3, -4, 0]


def test_the_host_looks_for_an_optimizer_that_cannot(late):
    params, optimizer, steps = build()
    set_gradients(params, NOT_FINITE[0])
    steps.step(params, lambda: pytest.fail('must be left out'))
    assert steps.left_out.get()


def test_found_inf_goes_when_a_step_fails(late):
    params, optimizer, steps = build(fused=True)
    set_gradients(params, FINITE)
    with pytest.raises(ZeroDivisionError):
        steps.step(params, lambda: 1 / 0)
    assert not hasattr(optimizer, 'found_inf')


def test_clips_by_the_norm_that_it_has_taken():
    params, optimizer, steps = build(norm_type=2.)

    def make_step():
        norm = steps.clip(params[:2], lambda *_, **__: pytest.fail('a second norm'), max_norm=.5)
        assert norm.item() == 5
        optimizer.step()

    set_gradients(params, FINITE)
    steps.step(params, make_step)
    assert weights(params) == pytest.approx([-.3, -.4, 0])
    # Outside of a step there is none.
    set_gradients(params, FINITE)
    assert steps.clip(params[:2], clip_grad_norm_, max_norm=.5).item() == 5
    assert params[0].grad.item() == pytest.approx(.3)


def test_clips_by_value():
    params, optimizer, steps = build()
    set_gradients(params, FINITE)
    steps.step(params, lambda: steps.clip(params[:2], clip_grad_value_, clip_value=3.5))
    assert [param.grad.item() for param in params[:2]] == [3, 3.5]


def test_norms_for_the_log():
    steps = build()[2]
    got = [steps.arrived(torch.tensor(norm)) for norm in (1., float('nan'), 3.)]
    assert got == [1, None, 3]


def test_late_norms_for_the_log(late):
    steps = build()[2]
    got = [steps.arrived(torch.tensor(norm)) for norm in (1., float('inf'), 3., 4.)]
    assert got == [None, 1, None, 3]
