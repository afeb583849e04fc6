# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What a slot's weights are when it wakes up (AutoProg paper, section 3.3)."""
from abc import ABCMeta, abstractmethod
from typing import List, Mapping, Union

import torch
import torch.nn as nn
from mmengine.model import initialize

from ..registry import GROWTH_OPERATORS
from ..utils.errors import UserError
from .growing import GroupGrowth, Growth, Weights


class GrowthOperator(metaclass=ABCMeta):
    """Fills the slots that wake up, in place.

    A subclass says in :meth:`fill` what waking slots get. It is called once
    with the online weights and once with each momentum copy, so that both grow
    in the same way::

        @GROWTH_OPERATORS.register_module()
        class HalfInit(GrowthOperator):
            '''A waking slot gets half of what the slot to its left has.'''

            def fill(self, slots, group):
                for index, source in group.sources.items():
                    for name, value in slots[index].items():
                        value.copy_(slots[source][name] / 2)

    ``optim_wrapper=dict(growth=dict(type='HalfInit'))`` then grows by it.

    Attributes:
        overwrites (bool): Whether a waking slot loses what it had.
    """

    overwrites = True

    def __call__(self, growth: Growth) -> None:
        """Fill the waking slots of all groups; called without gradients.

        Args:
            growth (Growth): The growth, before anything wakes.
        """
        for group in growth.groups:
            for slots in growth.sets(group):
                self.fill(slots, group)

    @abstractmethod
    def fill(self, slots: List[Weights], group: GroupGrowth) -> None:
        """Fill the waking slots of one group, in one set of weights.

        Args:
            slots (list[dict[str, Tensor]]): The tensors of each slot of the
                group, awake or not, by their names in the slot: its parameters,
                and with the online weights also its buffers.
            group (GroupGrowth): The group. ``group.sources`` has each waking
                slot and the slot to its left; ``group.before`` and
                ``group.after`` are the awake slots, ``group.slots`` the
                modules.
        """


def copy_slot(source: Mapping[str, torch.Tensor], target: Mapping[str, torch.Tensor]) -> None:
    """Copy the weights of a slot in place.

    Args:
        source (Mapping[str, Tensor]): What to copy, by name.
        target (Mapping[str, Tensor]): What gets it.

    Raises:
        ValueError: If their names or shapes differ.
    """
    for name, value in target.items():
        if name not in source or source[name].shape != value.shape:  # else `copy_` may broadcast
            raise UserError(
                'The slots of a group must have tensors of equal names and shapes, for a waking '
                f'slot copies another one; but they differ in {name}.')
        value.copy_(source[name])


@GROWTH_OPERATORS.register_module()
class RandomInit(GrowthOperator):
    """A waking slot gets fresh initial weights, as at the start of a run."""

    def __call__(self, growth: Growth) -> None:
        for group in growth.groups:
            for index in group.sources:
                _reset(group.slots[index], growth.backbone, growth.model)
        super().__call__(growth)

    def fill(self, slots: List[Weights], group: GroupGrowth) -> None:
        fresh = group.online()
        for index in group.sources:
            copy_slot(fresh[index], slots[index])


def _reset(slot: nn.Module, backbone: nn.Module, model: nn.Module) -> None:
    backbone.reset_slot(slot)
    for module in slot.modules():
        # mmengine initialises each module only once.
        if hasattr(module, '_is_init'):
            module._is_init = False
    # As mmengine does it: from the outside to the inside.
    for owner in dict.fromkeys((model, backbone)):
        init_cfg = getattr(owner, 'init_cfg', None) or []
        for cfg in init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg]:
            if cfg['type'] != 'Pretrained':
                # An override is about a named part outside of the slot.
                initialize(slot, {k: v for k, v in cfg.items() if k != 'override'})
    if hasattr(slot, 'init_weights'):  # mmengine's modules have it
        slot.init_weights()
    backbone.reset_constants(slot)


@GROWTH_OPERATORS.register_module()
class Stacking(GrowthOperator):
    """The i-th awake layer, if it is waking, copies the old layer ``i mod l_old``.

    Source: Gong et al., "Efficient Training of BERT by Progressively
    Stacking", ICML 2019.
    """

    def fill(self, slots: List[Weights], group: GroupGrowth) -> None:
        for i, index in enumerate(group.after):
            if index in group.sources:
                copy_slot(slots[group.before[i % len(group.before)]], slots[index])


@GROWTH_OPERATORS.register_module()
class Interpolation(GrowthOperator):
    """A waking slot copies the nearest awake slot to its left.

    Source: Chang et al., "Multi-level Residual Networks from Dynamical
    Systems View", ICLR 2018.
    """

    def fill(self, slots: List[Weights], group: GroupGrowth) -> None:
        for index, source in group.sources.items():
            copy_slot(slots[source], slots[index])


@GROWTH_OPERATORS.register_module()
class IdentityInit(Interpolation):
    """Interpolation with residual branches that end in zeros.

    The function of the network is unchanged by the growth, with the online
    weights and with each momentum copy (Chen et al., "Net2Net", ICLR 2016).
    """

    def fill(self, slots: List[Weights], group: GroupGrowth) -> None:
        super().fill(slots, group)
        for index in group.sources:
            slot = group.slots[index]
            ends = {param for projection in group.backbone.branch_outputs(slot)
                    for param in projection.parameters()}
            for name, param in slot.named_parameters():
                if param in ends:
                    slots[index][name].zero_()


@GROWTH_OPERATORS.register_module()
class MoGrow(Interpolation):
    """Momentum growth: interpolation of the momentum weights.

    What is awake becomes its last momentum copy, and a waking slot gets the
    momentum weights of its source (AutoProg paper, section 3.3).

    Raises:
        ValueError: At the growth, if there is no momentum copy.
    """

    def __call__(self, growth: Growth) -> None:
        if not growth.momentum:
            raise UserError(
                'MoGrow needs a momentum copy: pass one as momentum of grow(), or use the operator '
                'Interpolation.')
        for name, param in growth.model.named_parameters():
            if param.requires_grad:
                param.copy_(growth.momentum[-1][name])
        super().__call__(growth)


@GROWTH_OPERATORS.register_module()
class Keep(GrowthOperator):
    """A waking slot keeps its own weights, as a pretrained checkpoint brought them."""

    overwrites = False

    def fill(self, slots: List[Weights], group: GroupGrowth) -> None:
        pass


def build_operator(cfg: Union[dict, GrowthOperator]) -> GrowthOperator:
    """Build a growth operator.

    Args:
        cfg (dict | GrowthOperator): Its ``type``, one of ``GROWTH_OPERATORS``,
            and its arguments; or an operator, which is returned.

    Raises:
        ValueError: If it is anything else.
    """
    if isinstance(cfg, GrowthOperator):
        return cfg
    known = sorted(GROWTH_OPERATORS.module_dict)
    if not isinstance(cfg, dict) or cfg.get('type') not in known:
        raise UserError(
            f'growth of the optimizer wrapper must be a dict with a type of {known}, but got '
            f'{cfg!r}.')
    # Not through `build`, which would look in the scope of mmpretrain first.
    options = {key: value for key, value in cfg.items() if key != 'type'}
    return GROWTH_OPERATORS.module_dict[cfg['type']](**options)
