# Copyright (c) the autoprog_mm authors. All rights reserved.
from typing import Dict, List, Optional

import torch
from mmengine.hooks import RuntimeInfoHook
from mmpretrain.registry import HOOKS

from ...utils.host_copy import HostCopy


@HOOKS.register_module()
class LateRuntimeInfoHook(RuntimeInfoHook):
    """mmengine's ``RuntimeInfoHook`` that doesn't stop the device to log losses.

    On CUDA the losses of a step are read during the next one, when they have
    arrived, and so are logged a step late; those of an epoch's last step are
    read at once. Use it as ``default_hooks.runtime_info``.
    """

    def __init__(self) -> None:
        self._late: List[Dict[str, HostCopy]] = []

    def after_train_iter(self,
                         runner,
                         batch_idx: int,
                         data_batch=None,
                         outputs: Optional[dict] = None) -> None:
        """Note the losses of the step before, or those of this one if they are here.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Index of the step in its epoch.
            data_batch (dict, optional): Not used.
            outputs (dict, optional): The step's losses.
        """
        now = {}
        late = {}
        for name, value in (outputs or {}).items():
            on_device = isinstance(value, torch.Tensor) and HostCopy.is_late(value)
            (late if on_device else now)[name] = HostCopy(value) if on_device else value
        super().after_train_iter(runner, batch_idx, data_batch, now)
        self._late.append(late)
        last = self.end_of_epoch(runner.train_dataloader, batch_idx)
        while len(self._late) > (not last):
            arrived = {name: copy.get() for name, copy in self._late.pop(0).items()}
            super().after_train_iter(runner, batch_idx, data_batch, arrived)
