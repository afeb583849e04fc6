# Copyright (c) the autoprog_mm authors. All rights reserved.
"""The cosine of timm, by which VOLO is trained."""
import math
from typing import List

from mmengine.optim import _ParamScheduler
from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmpretrain.registry import PARAM_SCHEDULERS

from ...utils.checks import check_int
from ...utils.errors import UserError


@PARAM_SCHEDULERS.register_module()
class CycleCosineLR(LRSchedulerMixin, _ParamScheduler):
    """A cosine that the warm-up is a part of, and that ends with a cool-down.

    ``CosineAnnealingLR`` begins to fall when the warm-up is over. This one has
    been falling since step 0: where it takes over, at ``begin``, it is where a
    run without warm-up would be. Then it falls to ``eta_min``, and stays there
    for ``cooldown``. So it does in timm, where ``warmup_prefix`` is not set.
    ``AutoProgHook`` begins stages as if the run had no cool-down.

    Args:
        optimizer (Optimizer or BaseOptimWrapper): Whose groups it sets.
        end (int): End of the run, with the cool-down, in epochs (or steps with
            ``by_epoch=False``, here and below).
        eta_min (float): Least learning rate, of all groups. Defaults to 0.
        begin (int): End of the warm-up. Defaults to 0.
        cooldown (int): How long the least rate stays. Defaults to 0.
        last_step (int): As in mmengine's schedulers. Defaults to -1.
        by_epoch (bool): Defaults to True.
        verbose (bool): Whether each value is logged. Defaults to False.

    Raises:
        UserError: If nothing is left between warm-up and cool-down.
    """

    def __init__(self,
                 optimizer,
                 end: int,
                 eta_min: float = 0.,
                 begin: int = 0,
                 cooldown: int = 0,
                 last_step: int = -1,
                 by_epoch: bool = True,
                 verbose: bool = False) -> None:
        check_int('cooldown of CycleCosineLR', cooldown, least=0)
        if not begin < end - cooldown:
            raise UserError(
                f'CycleCosineLR has no step between its begin ({begin}) and its end ({end}) less '
                f'its cooldown ({cooldown}). Lower begin or cooldown, or raise end.')
        self.eta_min = eta_min
        self.cooldown = cooldown
        super().__init__(
            optimizer, begin=begin, end=end, last_step=last_step, by_epoch=by_epoch,
            verbose=verbose)

    @classmethod
    def build_iter_from_epoch(cls, *args, end: int, epoch_length: int, begin: int = 0,
                              cooldown: int = 0, **kwargs) -> 'CycleCosineLR':
        """One by steps, from what is said in epochs; mmengine's builder calls it."""
        return cls(*args, end=end * epoch_length, begin=begin * epoch_length,
                   cooldown=cooldown * epoch_length, **{**kwargs, 'by_epoch': False})

    def _get_value(self) -> List[float]:
        cycle = self.end - self.cooldown
        # It counts its own steps, from begin on.
        step = min(self.begin + self.last_step, cycle)
        share = (1 + math.cos(math.pi * step / cycle)) / 2
        return [self.eta_min + share * (base - self.eta_min) for base in self.base_values]
