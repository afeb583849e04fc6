# Copyright (c) the autoprog_mm authors. All rights reserved.
from typing import Any, Dict, Iterator, List, Union

import torch
import torch.nn as nn
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmpretrain.registry import MODEL_WRAPPERS

from ...utils.errors import UserError


@MODEL_WRAPPERS.register_module()
class ElasticDistributedDataParallel(nn.Module):
    """Data-parallel training of a model whose awake parameters change.

    It reduces the gradients of exactly the awake parameters, on CUDA and on
    the CPU. The reducer of torch's ``DistributedDataParallel`` is made for one
    set of parameters; after that has changed, :meth:`rebuild` makes a new one.

    Args:
        module (nn.Module): The model, on its device.
        find_unused_parameters (bool): Whether the loss leaves out some
            parameters that are awake. In a search, which trains a part of them
            in each step, that is so in any case. Defaults to False.
        **kwargs: As torch's ``DistributedDataParallel``, but for
            ``device_ids``, which is set here. ``broadcast_buffers`` defaults to
            False, as in mmengine.
    """

    def __init__(self, module: nn.Module, find_unused_parameters: bool = False,
                 **kwargs) -> None:
        super().__init__()
        if 'device_ids' in kwargs:
            raise UserError(
                f'model_wrapper_cfg.device_ids ({kwargs["device_ids"]!r}) is not to be set: '
                f'{type(self).__name__} sets it to the device of the process.')
        self._finds_unused = find_unused_parameters
        self.module = module
        self._options = {'broadcast_buffers': False, **kwargs}
        self._built_for: Any = None
        self.rebuild()

    def follow(self, awake_slots: tuple, searching: bool) -> None:
        """Rebuild the reducer if what is awake, or a search, has changed.

        Args:
            awake_slots (tuple): Awake slots of the backbone.
            searching (bool): Whether steps use only a part of them.
        """
        if self._built_for != (awake_slots, searching):
            self.rebuild(find_unused_parameters=searching)
            self._built_for = awake_slots, searching

    def rebuild(self, find_unused_parameters: bool = False) -> None:
        """Make a new reducer for what is awake now.

        Args:
            find_unused_parameters (bool): Whether steps use only a part of
                what is awake, as in a search. Defaults to False.
        """
        device = next(self.module.parameters()).device
        # Not a submodule: the model's parameters must not be listed twice.
        # The old reducer goes first, and takes its gradient hooks with it.
        object.__setattr__(self, '_reducing', None)
        object.__setattr__(
            self, '_reducing',
            MMDistributedDataParallel(
                self.module,
                device_ids=[torch.cuda.current_device()] if device.type == 'cuda' else None,
                find_unused_parameters=self._finds_unused or find_unused_parameters,
                **self._options))
        self._reducing.train(self.training)

    def forward(self, *args, **kwargs) -> Any:
        """The model's forward pass, after whose backward gradients are reduced."""
        return self._reducing(*args, **kwargs)

    def train_step(self, data: Union[dict, tuple, list],
                   optim_wrapper: OptimWrapper) -> Dict[str, torch.Tensor]:
        """See mmengine's ``MMDistributedDataParallel.train_step``."""
        return self._reducing.train_step(data, optim_wrapper)

    def val_step(self, data: Union[dict, tuple, list]) -> List[Any]:
        """See mmengine's ``MMDistributedDataParallel.val_step``."""
        return self.module.val_step(data)

    def test_step(self, data: Union[dict, tuple, list]) -> List[Any]:
        """See mmengine's ``MMDistributedDataParallel.test_step``."""
        return self.module.test_step(data)

    def no_sync(self) -> Iterator[None]:
        """Context in which gradients are not reduced."""
        return self._reducing.no_sync()
