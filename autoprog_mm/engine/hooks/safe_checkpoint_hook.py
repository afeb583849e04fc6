# Copyright (c) the autoprog_mm authors. All rights reserved.
import os.path as osp
from inspect import signature
from typing import List, Optional, Union

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import EpochBasedTrainLoop
from mmpretrain.registry import HOOKS

from ...utils import write_atomically

# Not to begin with 'val', or the logger would take it for a metric.
_VALIDATED = 'last_validated_epoch'


def _check_keys(kwargs: dict) -> None:
    # The parent takes anything and hands it to Runner.save_checkpoint.
    known = set(signature(CheckpointHook.__init__).parameters) - {
        'self', 'kwargs', 'file_client_args'  # the last one is mmengine's old backend_args
    }
    unknown = sorted(set(kwargs) - known)
    if unknown:
        raise ValueError(f'SafeCheckpointHook got unknown arguments {unknown}; it takes '
                         f'{sorted(known)}.')


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook`` that never has less than one whole checkpoint.

    A checkpoint is written beside its place and renamed, and an old one is
    deleted only when the new one is whole. A resumed run first does the
    validation that a kill has cut off. Local work directories only.

    Args:
        interval (int): Epochs (or steps) between checkpoints. Defaults to 1.
        max_keep_ckpts (int): How many of the latest to keep, besides the best
            one; -1 keeps all. Defaults to 2.
        save_best (str | list[str] | None): Metric whose best checkpoint is
            kept. Defaults to ``'auto'``, the first metric.
        **kwargs: As ``CheckpointHook``.
    """

    def __init__(self,
                 interval: int = 1,
                 max_keep_ckpts: int = 2,
                 save_best: Union[str, List[str], None] = 'auto',
                 **kwargs) -> None:
        _check_keys(kwargs)
        kwargs.setdefault('backend_args', dict(backend='AtomicLocalBackend'))
        super().__init__(
            interval=interval, max_keep_ckpts=max_keep_ckpts, save_best=save_best, **kwargs)

    def before_train(self, runner) -> None:
        """Set up, and do the validation of the epoch that was resumed from.

        Args:
            runner (Runner): The runner.
        """
        super().before_train(runner)
        loop, epoch = runner.train_loop, runner.epoch
        if not self.by_epoch and isinstance(loop, EpochBasedTrainLoop):
            raise ValueError(
                'SafeCheckpointHook needs by_epoch=True under an EpochBasedTrainLoop, which can '
                'only be resumed at the end of an epoch, but got by_epoch=False.')
        if hasattr(loop, '_decide_current_val_interval'):  # by `dynamic_intervals`
            loop._decide_current_val_interval()
        due = (
            runner.val_loop is not None and epoch > 0 and epoch >= loop.val_begin
            and (epoch % loop.val_interval == 0 or epoch == runner.max_epochs))
        if due and runner.message_hub.get_info(_VALIDATED) != epoch:
            runner.logger.info(
                f'Validating epoch {epoch}, of which this checkpoint knows no result.')
            runner.val_loop.run()

    def after_val_epoch(self, runner, metrics=None) -> None:
        """Keep the best checkpoint.

        Args:
            runner (Runner): The runner.
            metrics (dict): What the validation gave.
        """
        if not hasattr(self, 'file_backend'):  # not in training
            return
        runner.message_hub.update_info(_VALIDATED, runner.epoch)
        super().after_val_epoch(runner, metrics)

    def _save_checkpoint_with_step(self, runner, step, meta) -> None:
        surplus = None
        if self.max_keep_ckpts > 0:
            if not self.keep_ckpt_ids or self.keep_ckpt_ids[-1] != step:
                if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                    surplus = self._path(self.keep_ckpt_ids[0])
                self.keep_ckpt_ids.append(step)  # a deque of limited length
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        self.last_ckpt = self._path(step)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            self.filename_tmpl.format(step),
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args)
        if is_main_process():
            write_atomically(osp.join(runner.work_dir, 'last_checkpoint'), self.last_ckpt)
        self._remove(surplus)

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

    def _path(self, step: int) -> str:
        return self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(step))

    def _remove(self, path: Optional[str]) -> None:
        if path and is_main_process() and self.file_backend.isfile(path):
            self.file_backend.remove(path)
