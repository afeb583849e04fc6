# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Losses and gradients that are not finite."""
import math
from logging import Logger
from typing import List, NamedTuple, Optional, Tuple

import torch

from ...growth.subnet import Subnet
from ...models.elastic import ElasticBackbone
from ...utils.host_copy import HostCopy
from ...utils.modules import unwrap
from ..optimizers import MoGrowMixin


class NonFiniteLosses:
    """Reports steps whose loss or gradients are not finite, and counts updates of them in a row.

    On CUDA the numbers of a step are read during the next one, when they have
    arrived.

    Args:
        limit (int): After how many updates in a row a run is to stop.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_a_row = 0  # updates, of all ranks
        self._since_update = False  # whether a step was, since the last update
        self._unseen: List[_Step] = []  # whose numbers may still be on their way

    @property
    def waiting(self) -> bool:
        """bool: Whether the numbers of a step have not been read yet."""
        return bool(self._unseen)

    def look_at(self, runner, batch_idx: int, outputs: Optional[dict],
                due: bool) -> Tuple[bool, bool]:
        """Note a step, and judge those whose numbers have arrived.

        Args:
            runner (Runner): The runner, at the end of the step.
            batch_idx (int): Index of the step in its epoch.
            outputs (dict, optional): The step's losses.
            due (bool): Whether it ended with an update.

        Returns:
            tuple[bool, bool]: As :meth:`judge`.
        """
        loss = (outputs or {}).get('loss')
        self._unseen.append(_Step.of(runner, batch_idx, loss, due))
        # On CUDA the numbers of this step are still on their way.
        late = loss is not None and HostCopy.is_late(loss)
        return self.judge(runner.logger, leave=int(late))

    def judge(self, logger: Logger, leave: int = 0) -> Tuple[bool, bool]:
        """Judge the steps that have not been judged yet.

        Args:
            logger (Logger): Gets a warning for each that is not finite.
            leave (int): How many of the latest to leave for later. Defaults to 0.

        Returns:
            tuple[bool, bool]: Whether one of them ended with an update, and
            whether that was left out or a loss for it was not finite.
        """
        was_due = bad = False
        while len(self._unseen) > leave:
            step = self._unseen.pop(0)
            problem = step.problem()
            if problem:
                self._since_update = True
                logger.warning(problem)
            if step.due:
                was_due, bad, self._since_update = True, bad or self._since_update, False
        return was_due, bad

    def count(self, due: bool, bad: bool, hint: str) -> None:
        """Count what all ranks saw of a step, and stop a run that gets nowhere.

        Args:
            due (bool): Whether it ended with an update.
            bad (bool): Whether a rank left that out, or had a loss for it that
                is not finite.
            hint (str): A sentence for the message.

        Raises:
            RuntimeError: After ``limit`` bad updates in a row.
        """
        if due:
            self.in_a_row = self.in_a_row + 1 if bad else 0
        if self.in_a_row >= self.limit:
            raise RuntimeError(
                f'The loss or its gradients were not finite in {self.in_a_row} updates in a row '
                f'(max_nonfinite). {hint} A lower learning rate, clip_grad or a longer warm-up '
                'may help.')


class _Step(NamedTuple):
    """What is to be known of a step, some of it still on its way from the device."""

    epoch: int
    index: int  # in its epoch
    subnet: Optional[Subnet]
    rate: Optional[float]  # of learning
    due: bool  # whether it ended with an update
    loss: Optional[HostCopy]
    left_out: Optional[HostCopy]

    @classmethod
    def of(cls, runner, batch_idx: int, loss: Optional[torch.Tensor], due: bool) -> '_Step':
        backbone = getattr(unwrap(runner.model), 'backbone', None)
        scalars = runner.message_hub.log_scalars
        rate = scalars.get('train/base_lr') or scalars.get('train/lr')
        return cls(
            epoch=runner.epoch,
            index=batch_idx,
            subnet=backbone.running_subnet if isinstance(backbone, ElasticBackbone) else None,
            rate=rate.current() if rate else None,
            due=due,
            loss=None if loss is None else HostCopy(loss),
            left_out=runner.optim_wrapper.left_out
            if isinstance(runner.optim_wrapper, MoGrowMixin) else None)

    def problem(self) -> str:
        """Waits for the numbers; an empty text if they are finite."""
        loss = self.loss.get() if self.loss is not None else 0.
        left_out = self.left_out is not None and self.left_out.get()
        if math.isfinite(loss) and not left_out:
            return ''
        return (
            ('The gradients are not finite' if math.isfinite(loss) else f'The loss is {loss}') +
            f' in epoch {self.epoch + 1}, step {self.index + 1}' +
            (f', {self.subnet}' if self.subnet is not None else '') +
            (f', learning rate {self.rate:.4g}' if self.rate is not None else '') +
            ('. Its update is left out.' if left_out else '.'))
