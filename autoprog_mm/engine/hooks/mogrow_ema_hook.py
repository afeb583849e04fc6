# Copyright (c) the autoprog_mm authors. All rights reserved.
from mmengine.hooks import EMAHook
from mmpretrain.registry import HOOKS

from ...utils.errors import UserError
from ..loaded_weights import never_resume_a_test
from ..optimizers import MoGrowMixin


@HOOKS.register_module()
class MoGrowEMAHook(EMAHook):
    """Validates with, and saves, the optimizer wrapper's last momentum copy.

    It keeps no copy of its own. A checkpoint's ``state_dict`` is the momentum
    copy, ready for use; the weights that training goes on with lie in
    ``online_state_dict``. In a process that only tests it does nothing, since
    the weights that it loads are the momentum copy already.

    Raises:
        ValueError: If the optimizer wrapper has no momentum copies.
    """

    def __init__(self) -> None:
        # The parent's options are about the copy that is not kept here.
        super().__init__()

    def before_run(self, runner) -> None:
        """Make no copies: they are the optimizer wrapper's.

        Args:
            runner (Runner): The runner.
        """
        never_resume_a_test(runner)

    def before_train(self, runner) -> None:
        """Check that there are momentum copies.

        Args:
            runner (Runner): The runner.
        """
        if not isinstance(runner.optim_wrapper, MoGrowMixin):
            raise UserError(
                'MoGrowEMAHook needs optim_wrapper.type to be MoGrowOptimWrapper or '
                f'AmpMoGrowOptimWrapper, but got {type(runner.optim_wrapper).__name__}.')

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Nothing: the optimizer wrapper moves its copies itself."""

    def before_val_epoch(self, runner) -> None:
        """Bring the momentum weights in.

        Args:
            runner (Runner): The runner.
        """
        self._swap(runner)

    def after_val_epoch(self, runner, metrics=None) -> None:
        """Bring the online weights back.

        Args:
            runner (Runner): The runner.
            metrics (dict, optional): Not used.
        """
        self._swap(runner)

    def before_test_epoch(self, runner) -> None:
        """Bring the momentum weights in, if this process has trained them.

        Args:
            runner (Runner): The runner.
        """
        self._swap(runner)

    def after_test_epoch(self, runner, metrics=None) -> None:
        """Bring the online weights back.

        Args:
            runner (Runner): The runner.
            metrics (dict, optional): Not used.
        """
        self._swap(runner)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Make the momentum copy the checkpoint's ``state_dict``.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): What is about to be saved.
        """
        # Where the optimizer is saved as well, its copies are taken, on which
        # torch.save spends their bytes only once.
        momentum = checkpoint.get('optimizer', {}).get('momentum')
        weights = momentum['copies'][-1] if momentum else {
            name: value.cpu() for name, value in runner.optim_wrapper.momentum_weights().items()
        }
        checkpoint['online_state_dict'] = checkpoint['state_dict']
        checkpoint['state_dict'] = checkpoint['state_dict'].copy()
        checkpoint['state_dict'].update(weights)

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """On resume, give training its online weights back.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): What was loaded.

        Raises:
            ValueError: On resume, if the checkpoint was saved without this hook.
        """
        if not runner._resume:
            return
        if 'online_state_dict' not in checkpoint:
            raise UserError(
                'The checkpoint to resume from was saved without MoGrowEMAHook. Resume with the '
                'config that it was made with, or use load_from without resume to start from its '
                'weights.')
        checkpoint['state_dict'] = checkpoint.pop('online_state_dict')

    def _swap(self, runner) -> None:
        optim_wrapper = runner.optim_wrapper
        if isinstance(optim_wrapper, MoGrowMixin) and optim_wrapper.initialized:
            optim_wrapper.swap_momentum()
