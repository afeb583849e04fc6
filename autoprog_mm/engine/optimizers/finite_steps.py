# Copyright (c) the autoprog_mm authors. All rights reserved.
import math
from typing import Callable, Optional, Sequence

import torch
import torch.nn as nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from ...utils.host_copy import HostCopy


class FiniteSteps:
    """Leaves out steps whose gradients are not finite.

    With a fused optimizer on CUDA the device itself leaves a step out, as for
    torch's gradient scaler, and the host, which doesn't wait for it, learns of
    it a step later. In all other cases the host looks first.

    Args:
        optimizer (Optimizer): Makes the steps.
        norm_type (float, optional): Of the norm by which gradients are
            clipped, which then also tells whether they are finite.
            Defaults to None, they are not clipped by a norm.

    Attributes:
        left_out (HostCopy | None): Whether the last step was left out; None if
            there was none since it was set to None, or nobody looked.
    """

    def __init__(self, optimizer: Optimizer, norm_type: Optional[float] = None) -> None:
        self.optimizer = optimizer
        self.norm_type = norm_type
        self.left_out: Optional[HostCopy] = None
        self._norm: Optional[torch.Tensor] = None  # of the gradients of the step under way
        self._late_norm: Optional[HostCopy] = None  # of the step before, for the log

    def step(self, parameters: Sequence[nn.Parameter], make_step: Callable[[], None]) -> None:
        """Make a step, unless gradients are not finite.

        Args:
            parameters (Sequence[Parameter]): Those that may have gradients.
            make_step (Callable): Clips, and calls the optimizer's ``step``.
        """
        try:
            not_finite = self.check(parameters)
            if not_finite is None:
                make_step()
                return
            self.left_out = HostCopy(not_finite)
            if self._skips_on_device(not_finite):
                self._step_on_device(not_finite, make_step)
            elif not self.left_out.get():
                make_step()
        finally:
            self._norm = None

    def check(self, parameters: Sequence[nn.Parameter]) -> Optional[torch.Tensor]:
        """Look at the gradients.

        Args:
            parameters (Sequence[Parameter]): Those that may have gradients.

        Returns:
            Tensor | None: Whether a gradient is not finite; None if there are none.
        """
        gradients = [param.grad for param in parameters if param.grad is not None]
        if not gradients:
            return None
        if self.norm_type is None:
            return ~torch.stack(torch._foreach_norm(gradients)).isfinite().all()
        self._norm = get_total_norm(gradients, self.norm_type)
        return ~self._norm.isfinite()

    def clip(self, parameters: Sequence[nn.Parameter], clip_func: Callable[..., torch.Tensor],
             **kwargs) -> Optional[torch.Tensor]:
        """Clip gradients, by the norm that :meth:`step` has taken if it has.

        Args:
            parameters (Sequence[Parameter]): Those that have gradients.
            clip_func (Callable): One of torch's functions.
            **kwargs: Its arguments.

        Returns:
            Tensor | None: The norm, if they are clipped by one.
        """
        if self._norm is None:
            return clip_func(parameters, **kwargs)
        clip_grads_with_norm_(parameters, kwargs['max_norm'], self._norm)
        return self._norm

    def arrived(self, norm: torch.Tensor) -> Optional[float]:
        """Exchange this step's norm for one that the host can read without waiting.

        Args:
            norm (Tensor): Of this step.

        Returns:
            float | None: On CUDA the norm of the step before, else ``norm``;
            None if there is none, or its step was left out.
        """
        copy = HostCopy(norm)
        if HostCopy.is_late(norm):
            copy, self._late_norm = self._late_norm, copy
        return copy.get() if copy is not None and math.isfinite(copy.get()) else None

    def _skips_on_device(self, tensor: torch.Tensor) -> bool:
        # As torch's gradient scaler asks: fused optimizers take `found_inf`.
        return HostCopy.is_late(tensor) and getattr(
            self.optimizer, '_step_supports_amp_scaling', False)

    def _step_on_device(self, not_finite: torch.Tensor, make_step: Callable[[], None]) -> None:
        self.optimizer.grad_scale, self.optimizer.found_inf = None, not_finite.float()
        try:
            make_step()
        finally:
            del self.optimizer.grad_scale, self.optimizer.found_inf
