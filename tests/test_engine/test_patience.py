# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Patience of early stopping counts the recipe's validations, also in a budget."""
from types import SimpleNamespace

import pytest
from mmengine.hooks import EarlyStoppingHook

from autoprog_mm.engine.loops import validate, validates
from autoprog_mm.engine.resume import recall_validations
from autoprog_mm.growth.budget import Spending, Timeline


class FakeRun:
    """Validations of a run of given epochs, without a network."""

    def __init__(self, spendings, epochs, scores, patience):
        course = SimpleNamespace(timeline=Timeline(spendings, epochs))
        self.train_loop = SimpleNamespace(
            course=course, val_interval=1, val_begin=1, stop_training=False)
        self.val_loop = self
        self.scores, self.seen, self.epoch = scores, [], 0
        self.hooks = [EarlyStoppingHook('accuracy', min_delta=0.1, patience=patience)]
        self.logger = SimpleNamespace(info=lambda text: None)

    def run(self):  # of the validation loop
        self.seen.append(self.scores[len(self.seen)])
        self.hooks[0].after_val_epoch(self, dict(accuracy=self.seen[-1]))

    def until(self, epochs):
        while self.epoch < epochs and not self.train_loop.stop_training:
            self.epoch += 1
            if validates(self.train_loop, self.epoch):
                validate(self)
        return self

    def resumed(self):
        """A fresh run that has read this one's checkpoint."""
        spendings = self.train_loop.course.timeline.spendings
        run = FakeRun(spendings, 12, self.scores, self.hooks[0].patience)
        run.epoch, run.seen = self.epoch, list(self.seen)
        run.message_hub = SimpleNamespace(log_scalars={'val/accuracy': SimpleNamespace(
            data=[SimpleNamespace(tolist=lambda: list(self.seen))])})
        recall_validations(run)
        return run


# Ten cheap epochs pass two of the recipe's twelve, and five dear ones two each.
SPENDINGS = [Spending(0, 10, 0.1), Spending(10, 15, 1.)]


def test_a_validation_that_stands_for_two_counts_twice():
    # One at the end of epochs 5 and 10, and of each later one. The best is that of epoch 11.
    run = FakeRun(SPENDINGS, 12, [1., 2., 3., 3., 3., 3., 3.], patience=4).until(15)
    assert run.epoch == 13 and len(run.seen) == 5  # four of the recipe without a better one
    # What gets better begins anew.
    run = FakeRun(SPENDINGS, 12, [1., 2., 3., 3., 4., 4., 4.], patience=4).until(15)
    assert run.epoch == 15


@pytest.mark.parametrize('epoch', [5, 10, 11, 12, 13])
def test_a_resume_counts_as_the_run_did(epoch):
    scores = [1., 2., 3., 3., 3., 3., 3.]
    stopped = FakeRun(SPENDINGS, 12, scores, patience=4).until(15)
    before = FakeRun(SPENDINGS, 12, scores, patience=4).until(epoch)
    after = before.resumed()
    assert after.hooks[0].wait_count == before.hooks[0].wait_count
    assert after.train_loop.stop_training == (epoch == 13)
    assert after.until(15).epoch == stopped.epoch
