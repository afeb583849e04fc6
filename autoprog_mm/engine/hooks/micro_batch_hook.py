# Copyright (c) the autoprog_mm authors. All rights reserved.
from functools import partial
from typing import Dict

from mmengine.hooks import Hook
from mmpretrain.registry import HOOKS

from ...growth.probe import all_awake
from ...growth.subnet import Subnet
from ...planning.memory import saved_bytes
from ...utils.checks import check_int
from ...utils.errors import UserError
from ...utils.modules import unwrap
from ..loops import ResumableTrainLoop
from ..micro_batches import num_parts
from ..optimizers import MoGrowMixin
from ..run_parts import find_backbone
from .autoprog_hook import AutoProgHook


@HOOKS.register_module()
class MicroBatchHook(Hook):
    """Splits batches that do not fit into memory, in the stages that need it.

    Earlier stages need less memory for an image, and so split less or not at
    all. A search times its candidates in the same parts. With BatchNorm a
    split batch is not the same, since each part has its own statistics. Needs
    ``ResumableTrainLoop``, an elastic backbone and a MoGrow optimizer wrapper.

    Args:
        max_batch_per_step (int): Images of one process that fit into memory in
            the full network.

    Raises:
        UserError: For a number below 1, or before training with another loop.
    """

    # After AutoProgHook, which says what a step runs.
    priority = 'VERY_LOW'

    def __init__(self, max_batch_per_step: int) -> None:
        check_int('max_batch_per_step of MicroBatchHook', max_batch_per_step)
        self.max_batch_per_step = max_batch_per_step
        self._bytes: Dict[Subnet, int] = {}  # of one image

    def before_train(self, runner) -> None:
        if not isinstance(runner.train_loop, ResumableTrainLoop):
            raise UserError(
                "MicroBatchHook needs train_cfg.type='ResumableTrainLoop', but train_cfg builds "
                f'{type(runner.train_loop).__name__}.')
        model = unwrap(runner.model)
        backbone = find_backbone(model, 'MicroBatchHook')
        if not isinstance(runner.optim_wrapper, MoGrowMixin):
            raise UserError(
                'MicroBatchHook needs optim_wrapper.type to be MoGrowOptimWrapper or '
                f'AmpMoGrowOptimWrapper, but got {type(runner.optim_wrapper).__name__}.')
        with all_awake(backbone):
            self._bytes[backbone.full_subnet] = saved_bytes(model, backbone.full_subnet)
        for hook in runner.hooks:
            if isinstance(hook, AutoProgHook) and hook.search is not None:
                hook.search.num_parts = partial(self._num_parts, model)

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        model = unwrap(runner.model)
        runner.train_loop.num_parts = self._num_parts(
            model, len(data_batch['inputs']), model.backbone.running_subnet)

    def _num_parts(self, model, batch_size: int, subnet: Subnet) -> int:
        if batch_size <= self.max_batch_per_step:
            return 1
        if subnet not in self._bytes:
            self._bytes[subnet] = saved_bytes(model, subnet)
        return num_parts(batch_size, self.max_batch_per_step,
                         self._bytes[subnet] / self._bytes[model.backbone.full_subnet])
