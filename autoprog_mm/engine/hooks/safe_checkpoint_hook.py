# Copyright (c) the autoprog_mm authors. All rights reserved.
import os
import os.path as osp
from inspect import signature
from typing import List, Optional, Union

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import EpochBasedTrainLoop
from mmpretrain.registry import HOOKS

from ...utils.errors import UserError
from ...utils.files import UNFINISHED, write_atomically
from ..checkpoint import (
    MODEL_CONFIG,
    ConfigText,
    choose_checkpoint,
    describe_model,
    pack,
    take_request,
    unpack,
)
from ..loaded_weights import never_resume_a_test
from ..loops import ResumableTrainLoop, validate, validates

# Not to begin with 'val', or the logger would take it for a metric.
_VALIDATED = 'last_validated_epoch'
_STEP_TEMPLATE = 'iter_{}.pth'


def _check_keys(kwargs: dict) -> None:
    # The parent takes anything and hands it to Runner.save_checkpoint.
    known = set(signature(CheckpointHook.__init__).parameters) - {
        'self', 'kwargs', 'file_client_args'  # the last one is mmengine's old backend_args
    }
    unknown = sorted(set(kwargs) - known)
    if unknown:
        raise UserError(f'SafeCheckpointHook got unknown arguments {unknown}; it takes '
                         f'{sorted(known)}.')


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook`` that never has less than one whole checkpoint.

    A checkpoint is written beside its place and renamed, and an old one is
    deleted only when the new one is whole. A resumed run goes on from the
    newest one that is whole, says which it passed over, and first does the
    validation that a kill has cut off. A checkpoint that a hook asks for by
    ``request_checkpoint`` is saved besides. What is saved is plain data, with
    what the model is built of. Local work directories only.

    Args:
        interval (int): Epochs (or steps) between checkpoints; where gradients
            accumulate, they come with the next update. Defaults to 1.
        by_epoch (bool): Whether ``interval`` counts epochs. With False, steps,
            a run needs ``ResumableTrainLoop``. Defaults to True.
        max_keep_ckpts (int): How many of the latest to keep, besides the best
            one; -1 keeps all. Defaults to 2.
        save_best (str | list[str] | None): Metric whose best checkpoint is
            kept. Defaults to ``'auto'``, the first metric.
        **kwargs: As ``CheckpointHook``.

    Raises:
        ValueError: For unknown arguments, and before training if there is
            nothing whole to resume from.
        RuntimeError: If a checkpoint can't be written.
    """

    # Besides those of its parent, metrics of mmpretrain.
    _default_greater_keys = [*CheckpointHook._default_greater_keys, 'recall', 'f1-score']

    def __init__(self,
                 interval: int = 1,
                 by_epoch: bool = True,
                 max_keep_ckpts: int = 2,
                 save_best: Union[str, List[str], None] = 'auto',
                 **kwargs) -> None:
        _check_keys(kwargs)
        kwargs.setdefault('backend_args', dict(backend='AtomicLocalBackend'))
        super().__init__(
            interval=interval,
            by_epoch=by_epoch,
            max_keep_ckpts=max_keep_ckpts,
            save_best=save_best,
            **kwargs)
        # Of checkpoints that end no epoch; the parent has one template only.
        self._step_template = _STEP_TEMPLATE if by_epoch else self.filename_tmpl
        self._kept: List[str] = []  # names, in the order of saving
        self._due = False  # a checkpoint by steps, that waits for an update
        self._config_text = ConfigText()

    # ------------------------------------------------------------- run begins

    def before_run(self, runner) -> None:
        """On resume, choose the checkpoint.

        Raises:
            ValueError: If the one that was asked for isn't whole, or there are
                some and none is.
        """
        super().before_run(runner)
        never_resume_a_test(runner)
        if not runner._resume or runner._has_loaded:
            return
        if not (self.save_optimizer and self.save_param_scheduler):
            raise UserError(
                'SafeCheckpointHook with save_optimizer=False or save_param_scheduler=False saves '
                'nothing that a run can be resumed from.')
        choice: List[Optional[str]] = [None, None]  # path, error
        if is_main_process():
            try:
                choice[0] = choose_checkpoint(
                    runner._load_from, self._folder(runner),
                    (self.filename_tmpl, self._step_template), runner.logger)
            except ValueError as error:
                choice[1] = str(error)
        broadcast_object_list(choice)
        path, error = choice
        if error is not None:
            raise UserError(error)
        runner._load_from = path or runner.cfg.get('load_from')  # with which the run began
        runner._resume = path is not None

    def _folder(self, runner) -> str:
        if self.out_dir is None or self.out_dir == runner.work_dir:
            return runner.work_dir
        return osp.join(self.out_dir, osp.basename(runner.work_dir.rstrip(osp.sep)))

    def before_train(self, runner) -> None:
        """Set up, and do the validation of the epoch that was resumed from."""
        super().before_train(runner)
        loop, epoch = runner.train_loop, runner.epoch
        self._check_steps(runner)
        hub = runner.message_hub
        if 'kept_checkpoints' in hub.runtime_info:
            self._kept = list(hub.get_info('kept_checkpoints'))
            self._remove_surplus()
        if is_main_process() and osp.isdir(self.out_dir):
            for name in os.listdir(self.out_dir):
                if UNFINISHED.search(name):  # a kill has cut it off
                    os.remove(osp.join(self.out_dir, name))
        if hasattr(loop, '_decide_current_val_interval'):  # by `dynamic_intervals`
            loop._decide_current_val_interval()
        begun = isinstance(loop, ResumableTrainLoop) and loop.steps_done > 0
        due = runner.val_loop is not None and epoch > 0 and not begun and validates(loop, epoch)
        if due and hub.get_info(_VALIDATED) != epoch:
            runner.logger.info(
                f'Validating epoch {epoch}, of which this checkpoint knows no result.')
            validate(runner)

    def _check_steps(self, runner) -> None:
        if self.by_epoch or not isinstance(runner.train_loop, EpochBasedTrainLoop):
            return
        if not isinstance(runner.train_loop, ResumableTrainLoop):
            raise UserError(
                'SafeCheckpointHook with by_epoch=False saves in the middle of epochs, and needs '
                "train_cfg.type='ResumableTrainLoop' to resume there, but train_cfg builds "
                f'{type(runner.train_loop).__name__}.')

    # ----------------------------------------------------------------- saving

    def every_n_epochs(self, runner, n: int, start: int = 0) -> bool:
        """Whether a checkpoint is due; of a run with a budget, intervals are the recipe's."""
        course = getattr(runner.train_loop, 'course', None)
        if course is None or n <= 0:
            return super().every_n_epochs(runner, n, start)
        return course.timeline.passes(runner.epoch + 1, n, start)

    def after_train_epoch(self, runner) -> None:
        """Save when it is time, and when :func:`request_checkpoint` asked for it."""
        before = self.last_ckpt
        requested = take_request(runner)  # first, so that it isn't saved
        super().after_train_epoch(runner)  # saves if by_epoch
        if requested and self.last_ckpt == before:
            epoch = runner.epoch + 1
            self._save(runner, self.filename_tmpl.format(epoch if self.by_epoch else runner.iter),
                       dict(epoch=epoch, iter=runner.iter))

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Save when it is time, and no gradients accumulate, which are not saved."""
        if self.by_epoch:
            return
        self._due = self._due or self.every_n_train_iters(
            runner, self.interval, self.save_begin) or (
                self.save_last and self.is_last_train_iter(runner))
        if self._due and runner.optim_wrapper.should_update():
            self._due = False
            runner.logger.info(f'Saving checkpoint at {runner.iter + 1} iterations')
            self._save_checkpoint(runner)

    def save_now(self, runner, step: Optional[int]) -> str:
        """Save what there is, out of turn.

        Args:
            runner (Runner): The runner.
            step (int | None): Steps done, if in the middle of an epoch, at the
                end of a step; None between epochs.

        Returns:
            str: Path of the checkpoint.
        """
        if step is not None:
            name, meta = self._step_template.format(step), dict(epoch=runner.epoch, iter=step)
        else:
            name = self.filename_tmpl.format(runner.epoch if self.by_epoch else runner.iter)
            meta = dict(epoch=runner.epoch, iter=runner.iter)
        # What the end of the epoch has saved is the same state.
        if step is not None or self._path(name) != self.last_ckpt:
            self._save(runner, name, meta)
        return self.last_ckpt

    def after_val_epoch(self, runner, metrics=None) -> None:
        """Keep the best checkpoint."""
        if not hasattr(self, 'file_backend'):  # not in training
            return
        runner.message_hub.update_info(_VALIDATED, runner.epoch)
        with self._config_text.reused(runner):
            super().after_val_epoch(runner, metrics)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Make the checkpoint plain, and add what its model is built of."""
        checkpoint[MODEL_CONFIG] = describe_model(runner.cfg)
        pack(checkpoint)

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Make the checkpoint mmengine's again."""
        unpack(checkpoint)

    def _save_checkpoint_with_step(self, runner, step, meta) -> None:
        self._save(runner, self.filename_tmpl.format(step), meta)

    def _save(self, runner, name: str, meta: dict) -> None:
        self._kept = [other for other in self._kept if other != name] + [name]
        # With those that are surplus, for a kill may come before they are removed.
        runner.message_hub.update_info('kept_checkpoints', list(self._kept))
        before, self.last_ckpt = self.last_ckpt or runner._load_from, self._path(name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        try:
            with self._config_text.reused(runner):
                runner.save_checkpoint(
                    self.out_dir,
                    name,
                    save_optimizer=self.save_optimizer,
                    save_param_scheduler=self.save_param_scheduler,
                    meta=meta,
                    by_epoch=self.by_epoch,
                    backend_args=self.backend_args)
            if is_main_process():
                write_atomically(osp.join(runner.work_dir, 'last_checkpoint'), self.last_ckpt)
        except OSError as error:
            raise RuntimeError(
                f'The checkpoint {self.last_ckpt!r} cannot be written ({error.strerror}). ' +
                (f'The last whole one is {before!r}. ' if before else '') +
                'Make room for it, then go on with the same command and --resume.') from error
        self._remove_surplus()

    def _remove_surplus(self) -> None:
        if self.max_keep_ckpts > 0:
            for name in self._kept[:-self.max_keep_ckpts]:
                self._remove(self._path(name))
            del self._kept[:-self.max_keep_ckpts]

    def _save_best_checkpoint(self, runner, metrics) -> None:
        if not self.save_best:
            return
        # The parent deletes the old best checkpoint before it writes the new
        # one; so it isn't shown the old one.
        if len(self.key_indicators) == 1:
            old, self.best_ckpt_path = self.best_ckpt_path, None
            super()._save_best_checkpoint(runner, metrics)
            if self.best_ckpt_path is None:
                self.best_ckpt_path = old
            elif old != self.best_ckpt_path:
                self._remove(old)
        else:
            before = dict(self.best_ckpt_path_dict)
            self.best_ckpt_path_dict = dict.fromkeys(before)
            super()._save_best_checkpoint(runner, metrics)
            for key, old in before.items():
                if self.best_ckpt_path_dict[key] is None:
                    self.best_ckpt_path_dict[key] = old
                elif old != self.best_ckpt_path_dict[key]:
                    self._remove(old)

    def _path(self, name: str) -> str:
        return self.file_backend.join_path(self.out_dir, name)

    def _remove(self, path: Optional[str]) -> None:
        if not path or not is_main_process():
            return
        # Resumed from another work directory, or moved, the path is one of there.
        path = self._path(osp.basename(path))
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
