# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Numbers of the device that the host reads without stopping it."""
from typing import Optional

import torch


class HostCopy:
    """A number of the device on its way to the host.

    On CUDA it travels while the device goes on, and only reading it waits. One
    that is read a step later has arrived, so that the device always has work.

    Args:
        tensor (Tensor): With one element; a copy is taken now.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self._event: Optional[torch.cuda.Event] = None
        tensor = tensor.detach().reshape(())
        if not tensor.is_cuda:
            self._host = tensor.clone()
            return
        self._host = torch.empty((), dtype=tensor.dtype, pin_memory=True)
        self._host.copy_(tensor, non_blocking=True)
        self._event = torch.cuda.Event()
        self._event.record()

    def __deepcopy__(self, memo: dict) -> 'HostCopy':
        return HostCopy(torch.as_tensor(self.get()))  # for events cannot be copied

    def get(self) -> float:
        """float | int | bool: The number, waited for if it is still on its way."""
        if self._event is not None:
            self._event.synchronize()
            self._event = None
        return self._host.item()

    @staticmethod
    def is_late(tensor: torch.Tensor) -> bool:
        """Whether reading a tensor at once would stop the device.

        Args:
            tensor (Tensor): Any tensor.
        """
        return tensor.is_cuda
