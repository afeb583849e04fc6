# Copyright (c) the autoprog_mm authors. All rights reserved.
import functools

import pytest
import torch
from mmengine.optim import AmpOptimWrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmpretrain.registry import OPTIM_WRAPPERS

from autoprog_mm import Subnet
from autoprog_mm.engine import AmpMoGrowOptimWrapper
from tests.micro import differences

from .test_mogrow_checkpoints import saved
from .test_mogrow_optim_wrapper import (
    assert_same,
    build,
    momentum,
    online,
    scatter,
    train,
)

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


def test_is_registered():
    assert OPTIM_WRAPPERS.get('AmpMoGrowOptimWrapper') is AmpMoGrowOptimWrapper
    assert issubclass(AmpMoGrowOptimWrapper, AmpOptimWrapper)


def build_amp(device, dtype, **kwargs):
    return build(device=device, type='AmpMoGrowOptimWrapper', dtype=dtype, **kwargs)


def test_bfloat16_uses_no_scaler(device):
    model, wrapper = build_amp(device, 'bfloat16')
    assert not wrapper.loss_scaler.is_enabled()
    assert wrapper.loss_scaler.scale(torch.tensor(3., device=device)).item() == 3.
    with wrapper.optim_context(model):
        assert model(torch.randn(2, 3, 16, 16, device=device)).dtype == torch.bfloat16
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
    wrapper.grow(model.backbone, Subnet(3, 16))
    state = saved(wrapper.state_dict())
    other, resumed = build_amp(device, dtype, depth=3, initialize=False)
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(state)
    resumed.initialize_count_status(other, 3, 1000)
    assert differences(resumed.state_dict(), wrapper.state_dict()) == []
