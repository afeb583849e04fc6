# Copyright (c) the autoprog_mm authors. All rights reserved.
from typing import Optional

import torch


class EpochAccumulation:
    """Has an optimizer wrapper accumulate gradients within epochs only.

    mmengine counts on from one epoch to the next. But between epochs a network
    grows, and a run is saved, with no gradients. So where
    ``accumulative_counts`` does not divide the steps of an epoch, its last
    update is of the steps that are left, and of their mean loss. mmengine does
    the same at the end of a run.

    Attributes:
        steps_per_epoch (int | None): Training steps of an epoch, set by
            ``AutoProgHook``. None, the default, leaves it to mmengine.
    """

    steps_per_epoch: Optional[int] = None

    def should_update(self) -> bool:
        """bool: Whether the step that was counted last ends with an update."""
        if self.steps_per_epoch is None:
            return super().should_update()
        return self._ends_update(self._inner_count)

    def should_sync(self) -> bool:
        """bool: Whether the step under way ends with an update, so that ranks share gradients."""
        if self.steps_per_epoch is None:
            return super().should_sync()
        return self._ends_update(self._inner_count + 1)

    def scale_loss(self, loss: torch.Tensor) -> torch.Tensor:
        """Divide the loss of a step by the steps of its update.

        Args:
            loss (Tensor): Of the step under way.

        Returns:
            Tensor: Its share of the mean.
        """
        if self.steps_per_epoch is None:
            return super().scale_loss(loss)
        left_over = self.steps_per_epoch % self._accumulative_counts
        whole = self.steps_per_epoch - left_over
        in_whole = self._inner_count % self.steps_per_epoch < whole
        return loss / (self._accumulative_counts if in_whole else left_over)

    def _ends_update(self, steps: int) -> bool:
        place = steps % self.steps_per_epoch
        return place % self._accumulative_counts == 0
