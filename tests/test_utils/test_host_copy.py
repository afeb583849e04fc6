# Copyright (c) the autoprog_mm authors. All rights reserved.
import pytest
import torch

from autoprog_mm.utils.host_copy import HostCopy

<<<<<<< HEAD
=======
from ..micro import load, micro_config, run

NAN = float('nan')
SEARCH = dict(type='OneShotSearch', epochs=1, eval_batches=2, evals=(1, 1), cost='flops')
FUSED = dict(optim_wrapper__optimizer__fused=True,
             default_hooks__runtime_info=dict(type='LateRuntimeInfoHook'))


@pytest.fixture
def late(monkeypatch):
    monkeypatch.setattr(HostCopy, 'is_late', staticmethod(lambda tensor: True))


class Poison(Hook):
    """Makes the gradients of some steps not finite, and watches what becomes of the step."""

    def __init__(self, steps):
        self.steps = steps
        self.moved = {}

    def before_train(self, runner):
        weight = runner.model.head.layers.head.weight
        weight.register_hook(lambda g: g * (NAN if runner.iter in self.steps else 1.))

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.before = self._state(runner)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.moved[runner.iter] = any(
            not torch.equal(a, b) for a, b in zip(self.before, self._state(runner)))

    def _state(self, runner):
        wrapper = runner.optim_wrapper
        moments = [value for state in wrapper.optimizer.state.values()
                   for value in state.values()]
        return [tensor.detach().clone()
                for tensor in [*runner.model.parameters(), *wrapper.momentum_weights(0).values(),
                               *wrapper.momentum_weights(1).values(), *moments]]

>>>>>>> optim

def test_copy():
    tensor = torch.tensor([2.5], requires_grad=True)
    copy, flag = HostCopy(tensor), HostCopy(torch.tensor(True))
    tensor.data.zero_()
    assert copy.get() == 2.5 and copy.get() == 2.5
    assert flag.get() is True


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_nothing_waits_on_cuda():
    tensor = torch.arange(3., device='cuda')
    torch.cuda.set_sync_debug_mode('error')
    try:
        copy = HostCopy(tensor.sum())
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert copy.get() == 3.
