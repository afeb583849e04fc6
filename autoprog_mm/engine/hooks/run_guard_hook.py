# Copyright (c) the autoprog_mm authors. All rights reserved.
import math
import os
import signal
import threading
import time
from datetime import timedelta
from functools import partial
from typing import Callable, Dict, List, NamedTuple, Optional, Tuple

import torch
from mmengine.dist import all_gather_object, get_rank
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop
from mmpretrain.registry import HOOKS
from torch.utils.data import DataLoader

from ...datasets.seeded import bad_images
from ...growth.subnet import Subnet
from ...models.elastic import ElasticBackbone
from ...utils.errors import UserError
from ...utils.host_copy import HostCopy
from ...utils.ranks import StepExchange
from ..loops import ResumableTrainLoop
from ..optimizers import MoGrowMixin
from .safe_checkpoint_hook import SafeCheckpointHook

SIGNALS = ('SIGTERM', 'SIGINT', 'SIGUSR1')
# Within this time a launcher may send a signal again that the terminal, or a
# cluster's scheduler, has sent to all processes already.
_REPEAT_SECONDS = 1.
_LISTED = 20  # images, in a message


@HOOKS.register_module()
class RunGuardHook(Hook):
    """Ends a run in good order, on all ranks at the same step.

    On a signal (SIGTERM, SIGINT, or SIGUSR1, by which Slurm can warn) the step
    is finished, a checkpoint is saved by ``SafeCheckpointHook``, and the
    process exits with 128 plus the signal's number. A second Ctrl-C stops at
    once. In the middle of an epoch this needs ``ResumableTrainLoop``.

    A training image that can't be read is named and counted, and another sample
    takes its place. A loss that is not finite is reported, and its update is
    left out by the optimizer wrapper.

    Args:
        max_bad_images (int): A run with more images than this that can't be
            read is stopped. Defaults to 100.
        max_nonfinite (int): A run is stopped after this many updates in a row
            of which a loss or the gradients are not finite. Defaults to 10.

    Raises:
        ValueError: For a negative ``max_bad_images`` or a ``max_nonfinite``
            below 1.
    """

    # After all others, so that what is saved is complete.
    priority = 'LOWEST'

    def __init__(self, max_bad_images: int = 100, max_nonfinite: int = 10) -> None:
        for name, value, least in (('max_bad_images', max_bad_images, 0),
                                   ('max_nonfinite', max_nonfinite, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UserError(
                    f'{name} of RunGuardHook must be an int of at least {least}, but got '
                    f'{value!r}.')
        self.max_bad_images = max_bad_images
        self.max_nonfinite = max_nonfinite
        self.bad_images: Dict[str, str] = {}  # path: error
        self._new_images: Dict[str, str] = {}  # of this rank, not shared yet
        self._fresh = 0  # bad images of this step
        self._bad_steps = 0  # updates whose loss or gradients were not finite, in a row
        self._bad_since = False  # whether one was, since the last update
        self._unseen: List[_Step] = []  # whose numbers may still be on their way
        self._exchange: Optional[StepExchange] = None  # until a run trains
        self._handlers: Dict[int, Callable] = {}  # those before ours
        self._received: Optional[int] = None  # signal
        self._received_time = 0.
        self._stop: Optional[int] = None  # signal, agreed on by all ranks

    # ------------------------------------------------------------- run begins

    def before_run(self, runner) -> None:
        """Shield worker processes, before any of them starts.

        Args:
            runner (Runner): The runner.
        """
        for loop in (runner._train_loop, runner._val_loop):
            if isinstance(loop, BaseLoop):  # not the config of one that isn't run
                _shield_workers(loop.dataloader)

    def before_train(self, runner) -> None:
        """Take over the signals.

        Args:
            runner (Runner): The runner.
        """
        self._saver = next((h for h in runner.hooks if isinstance(h, SafeCheckpointHook)), None)
        timeout = runner.cfg.get('env_cfg', {}).get('dist_cfg', {}).get('timeout')
        self._exchange = StepExchange(
            len(SIGNALS) + 3, timeout=timedelta(seconds=timeout) if timeout else None)
        if threading.current_thread() is threading.main_thread():
            for name in SIGNALS:
                number = getattr(signal, name, None)  # there is no SIGUSR1 on Windows
                # A job in the background ignores the terminal's Ctrl-C.
                if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                    self._handlers[number] = signal.signal(number, self._on_signal)

    def after_train(self, runner) -> None:
        """Give the signals back, and tell of bad images.

        Args:
            runner (Runner): The runner.
        """
        self._exchange.barrier()
        self._exchange = None
        self._restore_handlers()
        if self.bad_images:
            runner.logger.warning(
                f'{len(self.bad_images)} images could not be read, and others took their '
                f'places:\n{self._list_images()}')

    def on_failure(self, runner) -> None:
        """Give the signals back after an error, for notebooks go on after it.

        Args:
            runner (Runner): The runner.
        """
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def _on_signal(self, number: int, frame) -> None:
        now = time.monotonic()
        if self._received is None:
            self._received, self._received_time = number, now
            # A logger may be busy in the very place that was interrupted.
            os.write(2, f'\nRank {get_rank()} got {signal.Signals(number).name}: the step under '
                     'way is finished and saved. Ctrl-C again stops at once.\n'.encode())
        elif number == signal.SIGINT and now - self._received_time > _REPEAT_SECONDS:
            self._restore_handlers()
            raise KeyboardInterrupt

    # ------------------------------------------------------------------ steps

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Note images that could not be read.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Index of the step in its epoch.
            data_batch (dict): The collated batch.
        """
        self._fresh = 0
        for path, error in bad_images(data_batch):
            if path not in self.bad_images and path not in self._new_images:
                self._new_images[path] = error
                self._fresh += 1
                runner.logger.warning(
                    f'The image {path!r} cannot be read ({error}); another sample takes its '
                    'place.')

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Agree with the other ranks whether to go on.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Index of the step in its epoch.
            data_batch (dict, optional): Not used.
            outputs (dict): The step's losses.

        Raises:
            RuntimeError: For too many bad images, or too many losses in a row
                that are not finite.
            SystemExit: After a signal, with 128 plus its number.
        """
        due = runner.optim_wrapper.should_update()  # of the step that it has just counted
        loss = (outputs or {}).get('loss')
        self._unseen.append(self._look_at(runner, batch_idx, loss, due))
        # On CUDA the numbers of this step are still on their way.
        late = loss is not None and HostCopy.is_late(loss)
        was_due, bad = self._see_steps(runner, waiting=int(late))
        self._exchange_votes(self._fresh, was_due, bad)
        if self._stop is not None and due:
            self._end(runner, runner.iter + 1)

    def _exchange_votes(self, fresh: int = 0, due: bool = False, bad: bool = False) -> None:
        """Hand in what this rank saw of a step, and act on what all saw of the one before.

        Args:
            fresh (int): Images that could not be read, not known before.
            due (bool): Whether the step ended with an update.
            bad (bool): Whether it was left out or a loss since the update
                before was not finite.
        """
        votes = [self._received == getattr(signal, name, -1) for name in SIGNALS]
        *stops, fresh, due, bad = self._exchange.exchange([*votes, fresh, due, bad])
        if self._stop is None and any(stops):
            self._stop = next(getattr(signal, name) for name, n in zip(SIGNALS, stops) if n)
        if due:
            self._bad_steps = self._bad_steps + 1 if bad else 0
        if self._bad_steps >= self.max_nonfinite:
            raise RuntimeError(
                f'The loss or its gradients were not finite in {self._bad_steps} updates in a row '
                f'(max_nonfinite). {self._last_checkpoint()} A lower learning rate, clip_grad or '
                'a longer warm-up may help.')
        if fresh:
            self._share_images()
        if len(self.bad_images) > self.max_bad_images:
            raise RuntimeError(
                f'{len(self.bad_images)} images could not be read, more than max_bad_images '
                f'({self.max_bad_images}) of RunGuardHook. {self._last_checkpoint()} They are:\n'
                f'{self._list_images()}')

    def _share_images(self) -> None:
        """Tell all ranks of the images that each has met; a collective call."""
        for images in all_gather_object(self._new_images):
            self.bad_images.update(images)
        self._new_images = {}

    def _look_at(self, runner, batch_idx: int, loss: Optional[torch.Tensor],
                 due: bool) -> '_Step':
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        backbone = getattr(model, 'backbone', None)
        scalars = runner.message_hub.log_scalars
        rate = scalars.get('train/base_lr') or scalars.get('train/lr')
        return _Step(
            epoch=runner.epoch,
            index=batch_idx,
            subnet=backbone.running_subnet if isinstance(backbone, ElasticBackbone) else None,
            rate=rate.current() if rate else None,
            due=due,
            loss=None if loss is None else HostCopy(loss),
            left_out=runner.optim_wrapper.left_out
            if isinstance(runner.optim_wrapper, MoGrowMixin) else None)

    def _see_steps(self, runner, waiting: int = 0) -> Tuple[bool, bool]:
        """Judge the steps whose numbers have arrived.

        Args:
            runner (Runner): The runner.
            waiting (int): How many of the latest to leave for later.
                Defaults to 0.

        Returns:
            tuple[bool, bool]: Whether one of them ended with an update, and
            whether that was left out or a loss for it was not finite.
        """
        was_due = bad = False
        while len(self._unseen) > waiting:
            step = self._unseen.pop(0)
            loss = step.loss.get() if step.loss is not None else 0.
            left_out = step.left_out is not None and step.left_out.get()
            if left_out or not math.isfinite(loss):
                self._bad_since = True
                runner.logger.warning(
                    (f'The loss is {loss}' if not math.isfinite(loss) else
                     'The gradients are not finite') +
                    f' in epoch {step.epoch + 1}, step {step.index + 1}' +
                    (f', {step.subnet}' if step.subnet is not None else '') +
                    (f', learning rate {step.rate:.4g}' if step.rate is not None else '') +
                    ('. Its update is left out.' if left_out else '.'))
            if step.due:
                was_due, bad, self._bad_since = True, bad or self._bad_since, False
        return was_due, bad

    # ----------------------------------------------------------------- epochs

    def after_train_epoch(self, runner) -> None:
        """Share the names of images that could not be read, and see the last step.

        Args:
            runner (Runner): The runner.
        """
        self._share_images()
        if self._unseen:  # of all ranks, for they make the same steps on the same kind of device
            self._exchange_votes(0, *self._see_steps(runner))

    def before_val_epoch(self, runner) -> None:
        """Find out for how many steps all ranks are there.

        Args:
            runner (Runner): The runner.
        """
        if self._exchange is not None:
            self._val_steps = min(all_gather_object(len(runner.val_dataloader)))

    def after_val_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Break a validation off after a signal.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Index of the step.
            data_batch (dict, optional): Not used.
            outputs (Sequence, optional): Not used.

        Raises:
            SystemExit: After a signal, with 128 plus its number.
        """
        # Not in a validation that precedes training, or is all there is.
        if self._exchange is None or batch_idx >= self._val_steps:
            return
        self._exchange_votes()
        if self._stop is not None:
            # What is saved is never the momentum weights that are validated.
            if isinstance(runner.optim_wrapper, MoGrowMixin) and runner.optim_wrapper.swapped:
                runner.optim_wrapper.swap_momentum()
            self._end(runner, None)

    # -------------------------------------------------------------------- end

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
            self._share_images()
            saved = f'Saved {self._saver.save_now(runner, step)}.'
        # A launcher that sees one rank end may kill the one that is saving.
        self._exchange.barrier()
        self._restore_handlers()
        done = f'in epoch {runner.epoch + 1}, after step {step}' if step is not None else \
            f'in the validation of epoch {runner.epoch}'
        runner.logger.warning(
            f'Stopped by {signal.Signals(self._stop).name} {done}. {saved} Go on with the same '
            'command and --resume.')
        raise SystemExit(128 + self._stop)

    def _last_checkpoint(self) -> str:
        path = self._saver.last_ckpt if self._saver is not None else None
        return f'The last checkpoint is {path}.' if path else 'There is no checkpoint yet.'

    def _list_images(self) -> str:
        images = {**self.bad_images, **self._new_images}
        lines = [f'  {path}  ({error})' for path, error in list(images.items())[:_LISTED]]
        more = len(images) - len(lines)
        return '\n'.join(lines) + (f'\n  and {more} more' if more else '')

    # ------------------------------------------------------------ checkpoints

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Save what was found.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): What is about to be saved.
        """
        checkpoint['run_guard'] = dict(
            bad_images={**self.bad_images, **self._new_images}, bad_steps=self._bad_steps)

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """On resume, go on from what was found.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): What was loaded.
        """
        state = checkpoint.get('run_guard')
        if runner._resume and state is not None:
            self.bad_images = dict(state['bad_images'])
            self._bad_steps = state['bad_steps']


class _Step(NamedTuple):
    """What is to be known of a step, some of it still on its way from the device."""

    epoch: int
    index: int  # in its epoch
    subnet: Optional[Subnet]
    rate: Optional[float]  # of learning
    due: bool  # whether it ended with an update
    loss: Optional[HostCopy]
    left_out: Optional[HostCopy]


def _shield_workers(loader: DataLoader) -> None:
    """Have a loader's workers survive signals that go to the whole process group.

    The process that they work for decides when to stop. They end when it does.

    Args:
        loader (DataLoader): One that has not been iterated yet.
    """
    if isinstance(loader, DataLoader) and loader.num_workers > 0:
        loader.worker_init_fn = partial(_init_worker, loader.worker_init_fn)


def _init_worker(init: Optional[Callable], worker_id: int) -> None:
    for name in ('SIGINT', 'SIGUSR1'):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    # By SIGTERM the own process ends a worker, but a scheduler may send it to
    # all processes. Only a thread that waits for it can tell who sent it.
    if hasattr(signal, 'sigwaitinfo'):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_if_parent_says_so, daemon=True).start()
    if init is not None:
        init(worker_id)


def _end_if_parent_says_so() -> None:
    while True:
        if signal.sigwaitinfo({signal.SIGTERM}).si_pid == os.getppid():
            os._exit(0)
