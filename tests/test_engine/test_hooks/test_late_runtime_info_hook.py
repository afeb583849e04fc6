# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Numbers that are read a step later, as on CUDA; on the CPU that is only pretended."""

import pytest
import torch
from mmengine.hooks import Hook

from autoprog_mm.utils.host_copy import HostCopy
from tests.micro import STEPS, load, micro_config, read_record, run
from tests.test_engine.short_runs import run_until

NAN = float('nan')
SEARCH = dict(type='OneShotSearch', epochs=1, eval_batches=2, evals=(1, 1), cost='flops')
FUSED = dict(optim_wrapper__optimizer__fused=True,
             default_hooks__runtime_info=dict(type='LateRuntimeInfoHook'))


def pretend(patch, late=True):
    patch.setattr(HostCopy, 'is_late', staticmethod(lambda tensor: late))


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


@pytest.fixture(scope='module')
def runs(jpeg_root, tmp_path_factory):
    """Runner, spy and work directory of a run at once and a late one, to the second growth."""
    results = {}
    for late in (False, True):
        work_dir = tmp_path_factory.mktemp('late' if late else 'at_once')
        poison = Poison({7, 13})
        with pytest.MonkeyPatch.context() as patch:
            pretend(patch, late)
            runner = run_until(3, micro_config(jpeg_root, work_dir, SEARCH, **FUSED), poison)
        results[late] = runner, poison, work_dir
    return results


@pytest.mark.parametrize('late', [False, True])
def test_steps_are_left_out(runs, late):
    """By the device: weights, both momentum copies and the moments don't move, to the bit."""
    runner, poison, work_dir = runs[late]
    assert [step for step, moved in poison.moved.items() if not moved] == [7, 13]
    # Of the six steps since the growth, the second was left out.
    assert runner.optim_wrapper.state_dict()['momentum']['steps'] == 5
    assert load(work_dir / 'epoch_3.pth')['optimizer']['momentum']['steps'] == 5
    text = max(work_dir.glob('*/*.log')).read_text()
    assert text.count('The gradients are not finite') == 2
    assert text.count('The gradients are not finite in epoch 2, step 2,') == 1
    assert text.count('The gradients are not finite in epoch 3, step 2,') == 1


def test_late_and_at_once_are_the_same(runs):
    """Losses, norms and decisions; momentum is moved by other operations, so all but equal."""
    (first, _, here), (second, _, there) = runs[False], runs[True]
    histories = [runner.message_hub.log_scalars['train/loss'].data[0] for runner in (first, second)]
    assert len(histories[0]) == len(histories[1]) == 3 * STEPS
    torch.testing.assert_close(*map(torch.tensor, histories), rtol=1e-5, atol=1e-5)
    norms = [runner.message_hub.log_scalars['train/grad_norm'].data[0]
             for runner in (first, second)]
    assert (len(norms[0]), len(norms[1])) == (16, 15)  # one is still on its way
    torch.testing.assert_close(torch.tensor(norms[0][:-1]), torch.tensor(norms[1]),
                               rtol=1e-4, atol=1e-4)
    decided, also = ([stage['subnet'] for stage in read_record(work_dir)['stages']]
                     for work_dir in (here, there))
    assert decided == also and len(decided) == 2


@pytest.mark.parametrize('limit, stops', [(4, True), (5, False)])
def test_too_many_in_a_row(jpeg_root, tmp_path, monkeypatch, limit, stops):
    """The last of them ends an epoch, and is read there."""
    pretend(monkeypatch)
    cfg = micro_config(jpeg_root, tmp_path, default_hooks__guard__max_nonfinite=limit, **FUSED)
    poison = Poison({2, 3, 4, 5})
    if stops:
        with pytest.raises(RuntimeError, match=r'4 updates in a row \(max_nonfinite\)'):
            run(cfg, poison)
    else:
        run_until(2, cfg, poison)
    assert max(poison.moved) == (5 if stops else 11)
