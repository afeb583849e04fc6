# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Numbers that are read a step later, as on CUDA; on the CPU that is only pretended."""
import json
from contextlib import nullcontext

import pytest
import torch
from mmengine.hooks import Hook

from autoprog_mm.utils.host_copy import HostCopy

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


def test_copy():
    tensor = torch.tensor([2.5], requires_grad=True)
    copy, flag = HostCopy(tensor), HostCopy(torch.tensor(True))
    tensor.data.zero_()
    assert copy.get() == 2.5 and copy.get() == 2.5
    assert flag.get() is True


def test_steps_are_left_out_without_asking(late, jpeg_root, tmp_path):
    """By the device: weights, both momentum copies and the moments don't move, to the bit."""
    poison = Poison({7, 20})
    runner = run(micro_config(jpeg_root, tmp_path, SEARCH, **FUSED), poison)
    assert [step for step, moved in poison.moved.items() if not moved] == [7, 20]
    # Stage 4 begins after 36 of the 48 steps, and nothing was left out in it.
    assert runner.optim_wrapper.state_dict()['momentum']['steps'] == 12
    text = max(tmp_path.glob('*/*.log')).read_text()
    assert text.count('The gradients are not finite') == 2
    assert text.count('The gradients are not finite in epoch 2, step 2,') == 1
    assert text.count('The gradients are not finite in epoch 4, step 3,') == 1


def test_late_and_at_once_are_the_same(jpeg_root, tmp_path, monkeypatch):
    """Losses, norms and decisions; momentum is moved by other operations, so all but equal."""
    runners = []
    for is_late in (False, True):
        monkeypatch.setattr(HostCopy, 'is_late', staticmethod(lambda tensor, late=is_late: late))
        poison = Poison({13})
        runners.append(run(micro_config(jpeg_root, tmp_path / str(is_late), SEARCH, **FUSED),
                           poison))
        assert [step for step, moved in poison.moved.items() if not moved] == [13]
    histories = [runner.message_hub.log_scalars['train/loss'].data[0] for runner in runners]
    assert len(histories[0]) == len(histories[1]) == 48
    torch.testing.assert_close(*map(torch.tensor, histories), rtol=1e-5, atol=1e-5)
    norms = [runner.message_hub.log_scalars['train/grad_norm'].data[0] for runner in runners]
    assert (len(norms[0]), len(norms[1])) == (47, 46)  # one is still on its way
    torch.testing.assert_close(torch.tensor(norms[0][:-1]), torch.tensor(norms[1]),
                               rtol=1e-4, atol=1e-4)
    records = [json.loads((tmp_path / str(late) / 'autoprog.json').read_text())
               for late in (False, True)]
    first, second = ([stage['subnet'] for stage in record['stages']] for record in records)
    assert first == second
    steps = [load(tmp_path / str(late) / 'epoch_3.pth')['optimizer']['momentum']['steps']
             for late in (False, True)]
    assert steps[0] == steps[1] == 5  # of the six steps since the growth, the second was left out


@pytest.mark.parametrize('limit, stops', [(4, True), (5, False)])
def test_too_many_in_a_row(late, jpeg_root, tmp_path, limit, stops):
    cfg = micro_config(jpeg_root, tmp_path, default_hooks__guard__max_nonfinite=limit, **FUSED,
                       train_cfg__max_epochs=4)
    context = pytest.raises(RuntimeError, match=rf'{limit} updates in a row \(max_nonfinite\)')
    poison = Poison({8, 9, 10, 11})
    with context if stops else nullcontext():
        run(cfg, poison)
    # The last of them ends an epoch, and is read there.
    assert max(poison.moved) == (11 if stops else 23)


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
