# Copyright (c) the autoprog_mm authors. All rights reserved.
import logging

import torch
from mmengine.logging import print_log
from mmengine.optim import AmpOptimWrapper
from mmpretrain.registry import OPTIM_WRAPPERS

from .mogrow_optim_wrapper import MoGrowMixin


@OPTIM_WRAPPERS.register_module()
class AmpMoGrowOptimWrapper(MoGrowMixin, AmpOptimWrapper):
    """``MoGrowOptimWrapper`` in mixed precision, on an accelerator.

    ``dtype='bfloat16'`` needs no gradient scaler and uses none. With
    ``'float16'``, a step that the scaler leaves out moves no momentum copy.

    Args:
        *args: As ``AmpOptimWrapper``.
        **kwargs: As ``AmpOptimWrapper`` (``dtype``, ``loss_scale`` and others)
            and :class:`MoGrowMixin`.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if self.cast_dtype is torch.bfloat16:
            if kwargs.get('loss_scale', 'dynamic') != 'dynamic':
                print_log(
                    f'loss_scale={kwargs["loss_scale"]!r} has no effect: bfloat16 needs no '
                    'gradient scaler.',
                    logger='current',
                    level=logging.WARNING)
            self.loss_scaler = type(self.loss_scaler)(enabled=False)
