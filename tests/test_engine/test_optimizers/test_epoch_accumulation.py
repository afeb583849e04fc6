# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Gradients accumulate within epochs. That of a step is its number, so that means are known."""
import pytest
import torch
from mmengine.hooks import Hook

from autoprog_mm.engine import MoGrowOptimWrapper
from tests.micro import load, micro_config
from tests.test_engine.resuming import assert_same_state, resumed_until, run_until


def updates(counts, steps_per_epoch, epochs, begin=0, parts=1, bad=()):
    """What each update takes from the weight, by step, and the steps after which ranks share."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    wrapper = MoGrowOptimWrapper(
        torch.optim.SGD(model.parameters(), lr=1.), accumulative_counts=counts)
    wrapper.initialize_count_status(model, begin, epochs * steps_per_epoch)
    wrapper.steps_per_epoch = steps_per_epoch
    taken, synced, before = {}, [], 0.
    for step in range(begin + 1, epochs * steps_per_epoch + 1):
        if wrapper.should_sync():
            synced.append(step)
        slope = (float('nan') if step in bad else step) / parts
        for _ in range(parts - 1):
            wrapper.backward_part(model.weight.sum() * slope)
        wrapper.update_params(model.weight.sum() * slope)
        if wrapper.should_update():
            now = -model.weight.item()
            taken[step], before = now - before, now
    assert model.weight.grad is None
    return taken, synced


# By step of the update: the mean of the steps that it is of.
BY_HAND = {
    (1, 3): {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6},
    (2, 4): {2: 1.5, 4: 3.5, 6: 5.5, 8: 7.5},
    (4, 6): {4: 2.5, 6: 5.5, 10: 8.5, 12: 11.5},
    (3, 4): {3: 2, 4: 4, 7: 6, 8: 8},
    (8, 3): {3: 2, 6: 5},  # an epoch is shorter than an update
}


@pytest.mark.parametrize('counts, steps', BY_HAND)
@pytest.mark.parametrize('parts', [1, 2])
def test_an_update_is_of_the_mean_of_its_steps(counts, steps, parts):
    taken, synced = updates(counts, steps, epochs=2, parts=parts)
    assert taken == BY_HAND[counts, steps]
    assert synced == list(taken)


def test_a_resumed_epoch_is_as_any_other():
    taken, _ = updates(4, 6, epochs=2, begin=6)
    assert taken == {10: 8.5, 12: 11.5}


def test_a_step_that_is_not_finite_takes_its_update_along_and_no_other():
    taken, _ = updates(4, 6, epochs=2, bad=[2, 12])
    assert taken == {4: 0, 6: 5.5, 10: 8.5, 12: 0}


class NoteUpdates(Hook):
    """Notes the steps of updates, and gradients that are left at the end of an epoch."""
    priority = 'LOWEST'

    def __init__(self):
        self.steps, self.left = [], []

    def before_train(self, runner):
        runner.optim_wrapper.optimizer.register_step_post_hook(
            lambda *_: self.steps.append(runner.iter + 1))

    def after_train_epoch(self, runner):
        self.left += [p for p in runner.model.parameters() if p.grad is not None]


def test_an_epoch_ends_with_an_update(jpeg_root, tmp_path):
    """Over the first growth, after which an update had half of the gradients."""
    noting = NoteUpdates()
    run_until(micro_config(jpeg_root, tmp_path, optim_wrapper__accumulative_counts=4), 18, noting)
    assert noting.steps == [4, 6, 10, 12, 16, 18]
    assert noting.left == []


def test_checkpoints_by_steps_wait_for_an_update(jpeg_root, tmp_path):
    """Due after 5, 10 and 15 steps, of which only the 10th ends with an update."""
    options = dict(optim_wrapper__accumulative_counts=4, default_hooks__checkpoint__by_epoch=False,
                   default_hooks__checkpoint__interval=5)
    run_until(micro_config(jpeg_root, tmp_path / 'whole', **options), 17)
    saved = {path.name for path in (tmp_path / 'whole').glob('iter_*.pth')}
    assert saved == {'iter_6.pth', 'iter_10.pth', 'iter_16.pth'}
    assert load(tmp_path / 'whole' / 'iter_10.pth')['meta']['iter'] == 10
    resumed_until(micro_config(jpeg_root, tmp_path / 'resumed', **options),
                  tmp_path / 'whole' / 'iter_10.pth', 17)
    assert_same_state(*(tmp_path / name / 'iter_16.pth' for name in ('whole', 'resumed')))
