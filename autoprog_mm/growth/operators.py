# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What a slot's weights are when it wakes up (AutoProg paper, section 3.3)."""
from abc import ABCMeta, abstractmethod
from dataclasses import dataclass
from typing import Sequence

import torch
import torch.nn as nn
from mmengine.model import initialize

from ..registry import GROWTH_OPERATORS
from .slots import growth_sources


@dataclass(frozen=True)
class GroupGrowth:
    """The growth of one group of slots.

    Args:
        slots (Sequence[Module]): All slots of the group.
        before (Sequence[int]): Slots awake before the growth, ascending.
        after (Sequence[int]): Slots awake after it, ascending.
        backbone (ElasticBackbone): The backbone that the group is in.
        model (nn.Module): The whole model.
    """

    slots: Sequence[nn.Module]
    before: Sequence[int]
    after: Sequence[int]
    backbone: nn.Module
    model: nn.Module

    @property
    def sources(self):
        """dict[int, int]: The source slot of each waking slot."""
        return growth_sources(self.before, self.after)


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Copy all parameters and buffers in place."""
    target.load_state_dict(source.state_dict())


class GrowthOperator(metaclass=ABCMeta):
    """Fills the slots that wake up, in place; called without gradients.

    Attributes:
        adopts_momentum (bool): Whether the online weights of the whole model
            become its momentum weights before the slots are filled.
    """

    adopts_momentum = False

    @abstractmethod
    def __call__(self, growth: GroupGrowth) -> None:
        """Fill the waking slots of one group.

        Args:
            growth (GroupGrowth): The group, before it wakes.
        """


@GROWTH_OPERATORS.register_module()
class RandomInit(GrowthOperator):
    """A waking slot gets fresh initial weights, as at the start of a run."""

    def __call__(self, growth: GroupGrowth) -> None:
        for index in growth.sources:
            slot = growth.slots[index]
            growth.backbone.reset_slot(slot)
            for module in slot.modules():
                # mmengine initialises each module only once.
                if hasattr(module, '_is_init'):
                    module._is_init = False
            # As mmengine does it: from the outside to the inside.
            for owner in (growth.model, growth.backbone):
                init_cfg = getattr(owner, 'init_cfg', None) or []
                for cfg in init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg]:
                    if cfg['type'] != 'Pretrained':
                        # An override is about a named part outside of the slot.
                        initialize(slot, {k: v for k, v in cfg.items() if k != 'override'})
            if hasattr(slot, 'init_weights'):  # mmengine's modules have it
                slot.init_weights()
            growth.backbone.reset_constants(slot)


@GROWTH_OPERATORS.register_module()
class Stacking(GrowthOperator):
    """The i-th awake layer, if it is waking, copies the old layer ``i mod l_old``.

    Source: Gong et al., "Efficient Training of BERT by Progressively
    Stacking", ICML 2019.
    """

    def __call__(self, growth: GroupGrowth) -> None:
        old = sorted(growth.before)
        waking = growth.sources
        for i, index in enumerate(sorted(growth.after)):
            if index in waking:
                copy_weights(growth.slots[old[i % len(old)]], growth.slots[index])


@GROWTH_OPERATORS.register_module()
class Interpolation(GrowthOperator):
    """A waking slot copies the nearest awake slot to its left.

    Source: Chang et al., "Multi-level Residual Networks from Dynamical
    Systems View", ICLR 2018.
    """

    def __call__(self, growth: GroupGrowth) -> None:
        for index, source in growth.sources.items():
            copy_weights(growth.slots[source], growth.slots[index])


@GROWTH_OPERATORS.register_module()
class IdentityInit(Interpolation):
    """Interpolation with residual branches that end in zeros.

    The function of the network is unchanged by the growth (Chen et al.,
    "Net2Net", ICLR 2016).
    """

    def __call__(self, growth: GroupGrowth) -> None:
        super().__call__(growth)
        for index in growth.sources:
            for projection in growth.backbone.branch_outputs(growth.slots[index]):
                for param in projection.parameters():
                    torch.nn.init.zeros_(param)


@GROWTH_OPERATORS.register_module()
class MoGrow(Interpolation):
    """Momentum growth: interpolation of the momentum weights.

    The online weights become the momentum weights, and a waking slot gets the
    momentum weights of its source (AutoProg paper, section 3.3).
    """

    adopts_momentum = True
