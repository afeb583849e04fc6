# Copyright (c) the autoprog_mm authors. All rights reserved.
"""A growth, with the loss right before and right after it."""
import time
from typing import NamedTuple, Optional, Sequence, Tuple

import torch

from ..growth.probe import mean_losses
from ..growth.subnet import Subnet
from ..utils import Randomness, seed_step
from .run_parts import RunParts
from .stage_inputs import StageInputs

# On which the loss is compared; at most an epoch's.
CHECKED_BATCHES = 4


class GrowthResult(NamedTuple):
    """What a growth has done.

    Args:
        before (Subnet): What was awake.
        after (Subnet): What is awake now.
        operator (str): Class name of the growth operator.
        seconds (float): How long it took, without the losses.
        loss_before (float | None): Cross-entropy of the online weights right
            before it; None if images have not one class each.
        loss_after (float | None): On the same images right after it.
    """

    before: Subnet
    after: Subnet
    operator: str
    seconds: float
    loss_before: Optional[float]
    loss_after: Optional[float]


class Grower:
    """Grows a run's network.

    Args:
        parts (RunParts): The run's parts.
        inputs (StageInputs): Gives images to measure the loss on.
        randomness (Randomness): Seeds fresh weights.
    """

    def __init__(self, parts: RunParts, inputs: StageInputs, randomness: Randomness) -> None:
        self._parts = parts
        self._inputs = inputs
        self._randomness = randomness

    @property
    def operator(self) -> str:
        """str: Class name of the growth operator."""
        return type(self._parts.optim_wrapper.growth_operator).__name__

    def grow(self, stage: int, target: Subnet) -> GrowthResult:
        """Grow, and compare the loss before and after on the same images.

        Args:
            stage (int): The stage that begins with it.
            target (Subnet): What to wake.
        """
        batches = self._inputs.draw_labelled(stage, CHECKED_BATCHES)
        backbone, before = self._parts.backbone, self._parts.backbone.awake_subnet
        loss_before = self._loss(batches, before)
        begin = time.perf_counter()
        seed_step(self._randomness.growth(stage))
        self._parts.optim_wrapper.grow(backbone, target)
        seconds = time.perf_counter() - begin
        return GrowthResult(before, target, self.operator, seconds, loss_before,
                      self._loss(batches, target))

    def _loss(self, batches: Optional[Sequence[Tuple[torch.Tensor, torch.Tensor]]],
              subnet: Subnet) -> Optional[float]:
        if batches is None:
            return None
        model = self._parts.model
        weights = {name: param.detach() for name, param in model.named_parameters()}
        return mean_losses(model, self._parts.optim_wrapper, batches, [subnet], weights)[0]
