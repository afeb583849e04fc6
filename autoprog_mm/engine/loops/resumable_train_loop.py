# Copyright (c) the autoprog_mm authors. All rights reserved.
from typing import Optional

import torch.nn as nn
from mmengine.hooks import EarlyStoppingHook
from mmengine.runner import EpochBasedTrainLoop
from mmpretrain.registry import LOOPS

from ...datasets.seeded import skipping
from ...growth.course import Course
from ..micro_batches import train_step_in_parts


def validates(loop: EpochBasedTrainLoop, epoch: int) -> bool:
    """Whether an epoch is followed by a validation.

    Args:
        loop (EpochBasedTrainLoop): The training loop.
        epoch (int): The epoch, from 1.
    """
    course = getattr(loop, 'course', None)
    if course is not None:
        return course.timeline.is_due(epoch, loop.val_interval, loop.val_begin)
    return epoch >= loop.val_begin and (
        epoch % loop.val_interval == 0 or epoch == loop.max_epochs)


def recipe_validations(loop: EpochBasedTrainLoop, epoch: int) -> int:
    """How many validations of the recipe the one after an epoch stands for.

    A dear epoch of a budget may pass several of them.

    Args:
        loop (EpochBasedTrainLoop): The training loop.
        epoch (int): The epoch, from 1, which is followed by a validation.
    """
    course = getattr(loop, 'course', None)
    return 1 if course is None else max(
        1, course.timeline.dues(epoch, loop.val_interval, loop.val_begin))


def validate(runner) -> None:
    """Run the validation after an epoch; patience counts those of the recipe.

    Args:
        runner (Runner): One between two epochs.
    """
    more = recipe_validations(runner.train_loop, runner.epoch) - 1
    for hook in runner.hooks:
        if isinstance(hook, EarlyStoppingHook):
            hook.wait_count += more  # it adds one itself, or begins anew
    runner.val_loop.run()


@LOOPS.register_module()
class ResumableTrainLoop(EpochBasedTrainLoop):
    """mmengine's epoch loop that can begin in the middle of an epoch.

    A run that was saved in the middle of an epoch goes on with the next step
    of that epoch; the samples of earlier steps are passed over without being
    loaded. ``AutoProgHook`` has to be there, since it makes each sample a
    function of its place.

    Args:
        runner (Runner): The runner.
        dataloader (DataLoader | dict): The training dataloader.
        max_epochs (int): Epochs of the whole run.
        val_begin (int): Epoch from which on to validate. Defaults to 1.
        val_interval (int): Epochs between validations. Defaults to 1.
        dynamic_intervals (list[tuple[int, int]], optional): Other intervals
            from given epochs on. Defaults to None.

    Attributes:
        num_parts (int): In how many parts the next step is done, set by
            ``MicroBatchHook``.
        course (Course | None): That of a run with ``speedup``, set by
            ``AutoProgHook``: how many epochs it has, and how far the recipe,
            whose epochs ``max_epochs`` and intervals are, has come.
    """

    num_parts = 1
    course: Optional[Course] = None

    @property
    def max_epochs(self) -> int:
        """int: Epochs of the whole run."""
        return self._max_epochs if self.course is None else self.course.max_epochs

    @property
    def max_iters(self) -> int:
        """int: Steps of the whole run."""
        return self.max_epochs * len(self.dataloader)

    @property
    def steps_done(self) -> int:
        """int: Steps of the epoch under way that are done."""
        return self._iter - self._epoch * len(self.dataloader)

    def run(self) -> nn.Module:
        """Train, and tell hooks if that fails.

        Returns:
            Module: The model.
        """
        runner = self.runner
        try:
            runner.call_hook('before_train')
            while self._epoch < self.max_epochs and not self.stop_training:
                self.run_epoch()
                self._decide_current_val_interval()
                if runner.val_loop is not None and validates(self, self._epoch):
                    validate(runner)
            runner.call_hook('after_train')
            return runner.model
        except BaseException:
            # mmengine itself tells them of a good end only.
            for hook in runner.hooks:
                if hasattr(hook, 'on_failure'):
                    hook.on_failure(runner)
            raise

    def run_iter(self, idx: int, data_batch: dict) -> None:
        """Run a step, in parts if :attr:`num_parts` says so.

        Args:
            idx (int): Index of the step in its epoch.
            data_batch (dict): The collated batch.
        """
        runner = self.runner
        runner.call_hook('before_train_iter', batch_idx=idx, data_batch=data_batch)
        if self.num_parts > 1:
            outputs = train_step_in_parts(
                runner.model, runner.optim_wrapper, data_batch, self.num_parts)
        else:
            outputs = runner.model.train_step(data_batch, optim_wrapper=runner.optim_wrapper)
        runner.call_hook(
            'after_train_iter', batch_idx=idx, data_batch=data_batch, outputs=outputs)
        self._iter += 1

    def run_epoch(self) -> None:
        """Run what is left of an epoch."""
        begin = self.steps_done
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        with skipping(self.dataloader, begin):
            for index, data_batch in enumerate(self.dataloader, begin):
                self.run_iter(index, data_batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1
