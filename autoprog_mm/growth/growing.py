# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Growing a model, with or without a trainer."""
from itertools import chain
from typing import Callable, Dict, List, Mapping, Optional, Sequence

import torch
import torch.nn as nn

from ..utils.errors import UserError
from .slots import growth_sources
from .subnet import Subnet

Weights = Dict[str, torch.Tensor]  # by name


class GroupGrowth:
    """The growth of one group of slots, as a growth operator sees it.

    Args:
        backbone (ElasticBackbone): The backbone that the group is in.
        slots (Sequence[Module]): All slots of the group.
        before (Sequence[int]): Slots awake before the growth, ascending.
        after (Sequence[int]): Slots awake after it, ascending.

    Attributes:
        sources (dict[int, int]): Each waking slot, ascending, and the nearest
            slot to its left that was awake before.

    Raises:
        ValueError: If a slot would fall asleep.
    """

    def __init__(self, backbone: nn.Module, slots: Sequence[nn.Module], before: Sequence[int],
                 after: Sequence[int]) -> None:
        self.backbone = backbone
        self.slots = slots
        self.before = before
        self.after = after
        self.sources = growth_sources(before, after)

    def online(self) -> List[Weights]:
        """list[dict[str, Tensor]]: Parameters and buffers of each slot, by their names in it."""
        return [dict(chain(slot.named_parameters(), slot.named_buffers())) for slot in self.slots]


class Growth:
    """A growth of a model, as a growth operator sees it.

    Args:
        backbone (ElasticBackbone): The backbone that grows.
        subnet (Subnet): What it grows to.
        model (Module): The model that the backbone is in, or the backbone.
        momentum (Sequence[Mapping[str, Tensor]]): Momentum copies of the
            model's parameters, by their names in it.

    Attributes:
        groups (list[GroupGrowth]): The groups of slots.

    Raises:
        ValueError: If the backbone can't grow to the subnet, or if a momentum
            copy lacks a parameter.
    """

    def __init__(self, backbone: nn.Module, subnet: Subnet, model: nn.Module,
                 momentum: Sequence[Mapping[str, torch.Tensor]]) -> None:
        backbone.check_subnet(subnet)
        self.backbone = backbone
        self.model = model
        self.momentum = momentum
        self.groups = [
            GroupGrowth(backbone, slots, before, after) for slots, before, after in zip(
                backbone.slot_groups, backbone.slots_at(backbone.awake_subnet.depth),
                backbone.slots_at(subnet.depth))
        ]
        self._names = {param: name for name, param in model.named_parameters()}
        for copy in momentum:
            missing = [name for name in self._names.values() if name not in copy]
            if missing:
                raise UserError(
                    'A momentum copy must have all parameters of the model by their names, but '
                    f'it lacks {missing[:5]}.')

    def sets(self, group: GroupGrowth) -> List[List[Weights]]:
        """The weights of a group's slots, online and in each momentum copy.

        Args:
            group (GroupGrowth): One of :attr:`groups`.

        Returns:
            list[list[dict[str, Tensor]]]: First the online weights, then each
            momentum copy, which has parameters only: the tensors themselves
            of each slot, by their names in it.
        """
        return [group.online()] + [[{
            name: copy[self._names[param]] for name, param in slot.named_parameters()
        } for slot in group.slots] for copy in self.momentum]


@torch.no_grad()
def grow(backbone: nn.Module,
         subnet: Subnet,
         operator: Callable[[Growth], None],
         model: Optional[nn.Module] = None,
         momentum: Sequence[Mapping[str, torch.Tensor]] = ()) -> List[nn.Module]:
    """Grow a backbone: fill the slots that wake up, then wake them.

    Weights are written in place; no parameter is replaced. In a run, growth
    goes through the optimizer wrapper's ``grow``, which calls this.

    Args:
        backbone (ElasticBackbone): The backbone.
        subnet (Subnet): At least as deep as what is awake.
        operator (GrowthOperator): What waking slots get.
        model (Module, optional): The model that the backbone is in; its
            ``init_cfg`` says what fresh weights are. Defaults to None, the
            backbone alone.
        momentum (Sequence[Mapping[str, Tensor]]): Momentum copies of the
            model's parameters by name, which grow along. Defaults to none.

    Returns:
        list[Module]: The slots that woke up.

    Raises:
        ValueError: If the subnet doesn't fit the backbone or is shallower
            than what is awake, or if a momentum copy is missing or incomplete.

    Examples:
        >>> model.backbone.min_depth = 6
        >>> model.backbone.set_subnet(Subnet(6, 128))
        >>> grow(model.backbone, Subnet(8, 160), IdentityInit())
    """
    growth = Growth(backbone, subnet, backbone if model is None else model, momentum)
    operator(growth)
    backbone.set_subnet(subnet)
    return [group.slots[index] for group in growth.groups for index in group.sources]
