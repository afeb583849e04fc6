# Copyright (c) the autoprog_mm authors. All rights reserved.
import signal
from datetime import timedelta
from typing import Optional

from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop
from mmpretrain.registry import HOOKS

from ...datasets.unread import see_black_if_unread
from ...utils.checks import check_int
from ...utils.ranks import StepExchange
from ..guard import (
    SIGNALS,
    BadImages,
    NonFiniteLosses,
    StopSignals,
    check_classes,
    shield_workers,
)
from ..loops import ResumableTrainLoop
from ..optimizers import MoGrowMixin
from .safe_checkpoint_hook import SafeCheckpointHook


@HOOKS.register_module()
class RunGuardHook(Hook):
    """Ends a run in good order, on all ranks at the same step.

    On a signal (SIGTERM, SIGINT, or SIGUSR1, by which Slurm can warn) the step
    is finished, a checkpoint is saved by ``SafeCheckpointHook``, and the
    process exits with 128 plus the signal's number. A second Ctrl-C stops at
    once. In the middle of an epoch this needs ``ResumableTrainLoop``.

    A training image that can't be read is named and counted, and another sample
    takes its place. In validations and tests the network sees a black image
    instead, and the number of these is told with the accuracy. A loss that is
    not finite is reported, and its update is left out by the optimizer wrapper.

    Args:
        max_bad_images (int): A run with more images than this that can't be
            read is stopped, as is a validation. Defaults to 100.
        max_nonfinite (int): A run is stopped after this many updates in a row
            of which a loss or the gradients are not finite. Defaults to 10.

    Raises:
        ValueError: For a negative ``max_bad_images`` or a ``max_nonfinite``
            below 1.
    """

    # After all others, so that what is saved is complete.
    priority = 'LOWEST'

    def __init__(self, max_bad_images: int = 100, max_nonfinite: int = 10) -> None:
        check_int('max_bad_images of RunGuardHook', max_bad_images, least=0)
        check_int('max_nonfinite of RunGuardHook', max_nonfinite)
        self._images = BadImages(max_bad_images)
        self._losses = NonFiniteLosses(max_nonfinite)
        self._signals = StopSignals()
        self._fresh = 0  # bad images of this step
        self._exchange: Optional[StepExchange] = None  # until a run trains

    # -------------------------------------------------------- begin and end

    def before_run(self, runner) -> None:
        """Prepare worker processes and datasets, before any of them starts."""
        train, *others = (  # that are run: else it is a config
            loop if isinstance(loop, BaseLoop) else None
            for loop in (runner._train_loop, runner._val_loop, runner._test_loop))
        for loop in filter(None, (train, others[0])):
            shield_workers(loop.dataloader)
        for loop in filter(None, others):
            see_black_if_unread(loop.dataloader.dataset)

    def before_train(self, runner) -> None:
        """Take over the signals."""
        self._saver = next((h for h in runner.hooks if isinstance(h, SafeCheckpointHook)), None)
        timeout = runner.cfg.get('env_cfg', {}).get('dist_cfg', {}).get('timeout')
        self._exchange = StepExchange(
            len(SIGNALS) + 3, timeout=timedelta(seconds=timeout) if timeout else None)
        self._signals.take_over()

    def after_train(self, runner) -> None:
        """Give the signals back, and tell of bad images."""
        self._exchange.barrier()
        self._exchange = None
        self._signals.give_back()
        if self._images:
            runner.logger.warning(f'{len(self._images)} images could not be read, and others took '
                                  f'their places:\n{self._images.listed()}')

    def on_failure(self, runner) -> None:
        """Give the signals back after an error, for notebooks go on after it."""
        self._signals.give_back()

    # ------------------------------------------------------- steps and epochs

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Note images that could not be read."""
        self._fresh = self._images.look_at(data_batch, runner.logger)

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Agree with the other ranks whether to go on.

        Raises:
            RuntimeError: For too many bad images, or too many losses in a row
                that are not finite.
            SystemExit: After a signal, with 128 plus its number.
        """
        due = runner.optim_wrapper.should_update()  # of the step that it has just counted
        self._vote(self._fresh, *self._losses.look_at(runner, batch_idx, outputs, due))
        if self._signals.agreed is not None and due:
            self._end(runner, runner.iter + 1)

    def after_train_epoch(self, runner) -> None:
        """Share the names of images that could not be read, and see the last step."""
        self._images.share()
        if self._losses.waiting:  # on all ranks, for they make the same steps on the same devices
            self._vote(0, *self._losses.judge(runner.logger))

    def before_val_epoch(self, runner) -> None:
        """Find out for how many steps all ranks are there."""
        self._unread = BadImages(self._images.limit)
        if self._exchange is not None:
            self._val_steps = min(all_gather_object(len(runner.val_dataloader)))

    def after_val_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Break a validation off after a signal.

        Raises:
            SystemExit: After a signal, with 128 plus its number.
        """
        self._unread.look_at(data_batch)
        # Not in a validation that precedes training, or is all there is.
        if self._exchange is None or batch_idx >= self._val_steps:
            return
        self._vote()
        if self._signals.agreed is not None:
            # What is saved is never the momentum weights that are validated.
            if isinstance(runner.optim_wrapper, MoGrowMixin) and runner.optim_wrapper.swapped:
                runner.optim_wrapper.swap_momentum()
            self._end(runner, None)

    def after_val_epoch(self, runner, metrics=None) -> None:
        """Tell of images that could not be read.

        Raises:
            RuntimeError: For too many of them.
        """
        self._tell_unread(
            runner.logger, runner.val_dataloader.dataset, f'the validation of epoch {runner.epoch}')

    def before_test_epoch(self, runner) -> None:
        """Begin to count images that can't be read."""
        self._unread = BadImages(self._images.limit)

    def after_test_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Note images that could not be read."""
        self._unread.look_at(data_batch)

    def after_test_epoch(self, runner, metrics=None) -> None:
        """See :meth:`after_val_epoch`."""
        self._tell_unread(runner.logger, runner.test_dataloader.dataset, 'the test')

    def _tell_unread(self, logger, dataset, when: str) -> None:
        self._unread.share()
        if self._unread:
            count, whole = len(self._unread), len(dataset)
            points = 100 * count / whole
            logger.warning(  # with the epoch, for mmengine shows a warning once
                f'In {when}, {count} of {whole} images could not be read. The network saw black '
                f'images in their place, so its accuracy may be off by up to {points:.2f} points:\n'
                f'{self._unread.listed()}')
        self._unread.check('')

    def _vote(self, fresh: int = 0, due: bool = False, bad: bool = False) -> None:
        """Hand in what this rank saw of a step, and act on what all saw of the one before.

        Args:
            fresh (int): Images that could not be read, not known before.
            due (bool): Whether the step ended with an update.
            bad (bool): Whether it was left out or a loss since the update
                before was not finite.
        """
        *stops, fresh, due, bad = self._exchange.exchange(
            [*self._signals.votes(), fresh, due, bad])
        self._signals.agree(stops)
        self._losses.count(due, bad, self._last_checkpoint())
        if fresh:
            self._images.share()
        self._images.check(self._last_checkpoint())

    # ------------------------------------------------------------ checkpoints

    def _end(self, runner, step: Optional[int]) -> None:
        """Save and exit.

        Args:
            runner (Runner): The runner.
            step (int | None): Steps done, if in the middle of an epoch.
        """
        if self._saver is None:
            saved = 'No checkpoint was saved, since SafeCheckpointHook is not there.'
        elif step is not None and not isinstance(runner.train_loop, ResumableTrainLoop):
            saved = ('No checkpoint was saved in the middle of an epoch, which needs '
                     f"train_cfg.type='ResumableTrainLoop'. {self._last_checkpoint()}")
        else:
            self._images.share()
            saved = f'Saved {self._saver.save_now(runner, step)}.'
        # A launcher that sees one rank end may kill the one that is saving.
        self._exchange.barrier()
        self._signals.give_back()
        done = f'in epoch {runner.epoch + 1}, after step {step}' if step is not None else \
            f'in the validation of epoch {runner.epoch}'
        number = self._signals.agreed
        runner.logger.warning(
            f'Stopped by {signal.Signals(number).name} {done}. {saved} Go on with the same '
            'command and --resume.')
        raise SystemExit(128 + number)

    def _last_checkpoint(self) -> str:
        path = self._saver.last_ckpt if self._saver is not None else None
        return f'The last checkpoint is {path}.' if path else 'There is no checkpoint yet.'

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Save what was found."""
        checkpoint['run_guard'] = dict(
            bad_images=self._images.state_dict(), bad_steps=self._losses.in_a_row)

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """On resume, go on from what was found; to test, look whether classes are the same."""
        if not isinstance(runner._train_loop, BaseLoop):
            for loop in (runner._val_loop, runner._test_loop):
                if isinstance(loop, BaseLoop):
                    check_classes(checkpoint, loop.dataloader.dataset, runner.logger)
        state = checkpoint.get('run_guard')
        if runner._resume and state is not None:
            self._images.load_state_dict(state['bad_images'])
            self._losses.in_a_row = state['bad_steps']
