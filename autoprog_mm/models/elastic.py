# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What a backbone needs to run a subnet of itself."""
from abc import abstractmethod
from contextlib import contextmanager
from typing import Iterator, Optional, Sequence, Tuple

import numpy as np
import torch.nn as nn
from mmcv.cnn.bricks import DropPath

from ..growth.slots import slot_order
from ..growth.subnet import Subnet
from ..utils.checks import check_int, check_number
from ..utils.errors import UserError
from .compiling import CompilableForward
from .saved_subnet import SavedSubnet

# The awake or running slots: one ascending tuple of indices for each group.
Slots = Tuple[Tuple[int, ...], ...]


class ElasticBackbone(SavedSubnet, CompilableForward):
    """Mixin that puts slots of a full-size backbone to sleep and wakes them.

    The backbone is always built at full size, and all of it is awake at first.
    A sleeping slot is skipped and has ``requires_grad=False``: it costs the
    memory of its parameters and nothing else. Names and identities of
    parameters never change.

    A subclass has its slots in one or more groups and says how they are used::

        class MyBackbone(ElasticBackbone, StockBackbone):

            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                self.init_elastic(drop_path_rate=..., full_resolution=224, resolution_step=16)

    and implements :attr:`slot_groups`, :meth:`split_depth` (when it has more
    than one group), :meth:`branch_outputs`, :meth:`flops` and a ``forward``
    that runs :attr:`running_slots` only.
    """

    def init_elastic(self, drop_path_rate: float, full_resolution: int,
                     resolution_step: int) -> None:
        """Set up what is awake; called at the end of ``__init__``.

        Args:
            drop_path_rate (float): Drop-path rate of the last slot.
            full_resolution (int): Input size of the full network, in pixels.
            resolution_step (int): Every resolution is a multiple of it.
        """
        self.full_subnet = Subnet(
            sum(len(group) for group in self.slot_groups), full_resolution)
        self.resolution_step = resolution_step
        # LayerScale and the like start at a constant and can't reset themselves.
        for group in self.slot_groups:
            for slot in group:
                slot.initial_constants = {
                    name: param.detach().clone()
                    for name, param in _parameters_without_reset(slot)
                }
        check_number('drop_path_rate', drop_path_rate, high=1, below=True)
        self._drop_path_rate = drop_path_rate
        self._min_depth = self.full_subnet.depth
        self._min_depth_is_set = False
        self.set_subnet(self.full_subnet)

    # ------------------------------------------------------------- subclasses

    @property
    @abstractmethod
    def slot_groups(self) -> Sequence[Sequence[nn.Module]]:
        """Sequence[Sequence[Module]]: The groups of slots, in forward order."""

    def split_depth(self, depth: int) -> Tuple[int, ...]:
        """How many of ``depth`` awake slots are in each group."""
        return (depth, )

    @abstractmethod
    def flops(self, subnet: Subnet) -> float:
        """Multiply-adds of one image's forward pass through the backbone.

        Args:
            subnet (Subnet): What runs, at which resolution.
        """

    @abstractmethod
    def branch_outputs(self, slot: nn.Module) -> Sequence[nn.Module]:
        """The last projection of each residual branch of a slot.

        A slot whose branches all end in zeros is the identity.
        """

    # ------------------------------------------------------------------ state

    @property
    def min_depth(self) -> int:
        """int: The smallest depth of this run, which sets the waking order.

        Set once, before training. Until then it is the smallest depth that
        :meth:`set_subnet` got, the full depth at first.
        """
        return self._min_depth

    @min_depth.setter
    def min_depth(self, depth: int) -> None:
        check_int('min_depth', depth)
        if depth > self.awake_subnet.depth:
            raise UserError(
                f'min_depth ({depth}) must not exceed the depth of {type(self).__name__} that is '
                f'awake ({self.awake_subnet.depth}).')
        self._check_split(depth)
        self._min_depth, self._min_depth_is_set = depth, True
        self.set_subnet(self.awake_subnet)

    @property
    def awake_subnet(self) -> Subnet:
        """Subnet: What is awake."""
        return self._subnet

    @property
    def subnet(self) -> Subnet:
        """Subnet: :attr:`awake_subnet`, by its short name."""
        return self._subnet

    @property
    def awake_slots(self) -> Slots:
        """tuple[tuple[int]]: The awake slots, one ascending tuple a group."""
        return self._slots(self._subnet.depth)

    @property
    def running_subnet(self) -> Subnet:
        """Subnet: What the forward pass runs: :attr:`awake_subnet`, or in a search a part of it."""
        return self._running or self._subnet

    @property
    def running_slots(self) -> Slots:
        """tuple[tuple[int]]: The slots that the forward pass runs, one ascending tuple a group."""
        return self._running_slots

    @property
    def drop_path_rate(self) -> float:
        """float: Drop-path rate of the last running slot; it rises linearly from 0."""
        return self._drop_path_rate

    @drop_path_rate.setter
    def drop_path_rate(self, rate: float) -> None:
        check_number('drop_path_rate', rate, high=1, below=True)
        self._drop_path_rate = rate
        self._apply_drop_path()

    def reset_slot(self, slot: nn.Module) -> None:
        """Give a slot fresh weights, as the constructor does."""
        for module in slot.modules():
            if hasattr(module, 'reset_parameters'):
                module.reset_parameters()

    def reset_constants(self, slot: nn.Module) -> None:
        """Give the parameters of a slot that can't reset themselves their initial values."""
        for name, value in slot.initial_constants.items():
            slot.get_parameter(name).data.copy_(value)

    def slots_at(self, depth: int) -> Slots:
        """The slots that are awake at ``depth``, one ascending tuple a group.

        Args:
            depth (int): Between :attr:`min_depth` and the full depth.
        """
        self._check_depth(depth, self._min_depth)
        return self._slots(depth)

    def check_subnet(self, subnet: Subnet) -> None:
        """Raise a ValueError unless this backbone can run ``subnet``."""
        self._check_resolution(subnet.resolution)
        self._check_depth(subnet.depth, self._min_depth)

    def check_growth(self, before: Subnet, after: Subnet) -> None:
        """Raise a ValueError unless growing from ``before`` only wakes slots.

        Args:
            before (Subnet): A subnet of this backbone.
            after (Subnet): One that is at least as deep.
        """
        smaller, larger = self.slots_at(before.depth), self.slots_at(after.depth)
        if not all(set(old) <= set(new) for old, new in zip(smaller, larger)):
            raise UserError(
                f'{type(self).__name__} cannot grow from depth {before.depth} to {after.depth}, '
                f'since its groups would go from {self.split_depth(before.depth)} to '
                f'{self.split_depth(after.depth)} slots, and none may shrink. Change num_stages or '
                'initial_scale.depth.')

    def set_subnet(self, subnet: Subnet) -> None:
        """Wake the slots of ``subnet`` and put all others to sleep.

        Weights are left as they are: in a run, growth goes through the
        optimizer wrapper's ``grow``.

        Args:
            subnet (Subnet): What is awake from now on.

        Raises:
            ValueError: If the backbone can't run it.
        """
        least = self._min_depth
        if not self._min_depth_is_set:
            least = min(least, subnet.depth)
        self._check_resolution(subnet.resolution)
        self._check_depth(subnet.depth, least)
        self._subnet, self._min_depth, self._asleep_by_load = subnet, least, False
        for group, awake in zip(self.slot_groups, self._slots(subnet.depth)):
            for index, slot in enumerate(group):
                for param in slot.parameters():
                    param.requires_grad_(index in awake)
                    if index not in awake:
                        param.grad = None
        self.set_running(None)

    def set_running(self, subnet: Optional[Subnet]) -> None:
        """Run only a part of what is awake, as a search does in each step.

        Args:
            subnet (Subnet | None): No deeper than :attr:`awake_subnet`. None runs
                all that is awake.

        Raises:
            ValueError: If it is deeper than what is awake.
        """
        if subnet is not None:
            self.check_subnet(subnet)
            if subnet.depth > self._subnet.depth:
                raise UserError(
                    f'Only depths up to {self._subnet.depth} are awake, but got {subnet}.')
        self._running = subnet
        self._running_slots = self._slots(self.running_subnet.depth)
        self._apply_drop_path()

    @contextmanager
    def running(self, subnet: Subnet) -> Iterator[None]:
        """Context in which only ``subnet`` runs, as with :meth:`set_running`."""
        before = self._running
        self.set_running(subnet)
        try:
            yield
        finally:
            self.set_running(before)

    # ---------------------------------------------------------------- private

    def _check_resolution(self, resolution: int) -> None:
        if resolution % self.resolution_step:
            raise UserError(
                f'resolution ({resolution}) must be divisible by {self.resolution_step}, the token '
                f'size of {type(self).__name__}; change img_size, initial_scale.resolution or '
                'resolution_divisor.')

    def _check_depth(self, depth: int, min_depth: int) -> None:
        if not min_depth <= depth <= self.full_subnet.depth:
            raise UserError(
                f'depth must be between min_depth ({min_depth}) and the full depth of '
                f'{type(self).__name__} ({self.full_subnet.depth}), but got {depth}.')
        self._check_split(depth)

    def _check_split(self, depth: int) -> None:
        counts, sizes = self.split_depth(depth), [len(group) for group in self.slot_groups]
        if not all(1 <= count <= size for count, size in zip(counts, sizes)):
            running, existing = (' and '.join(map(str, numbers)) for numbers in (counts, sizes))
            raise UserError(
                f'{type(self).__name__} cannot run at depth {depth}: of its groups of {existing} '
                f'slots {running} would run, but at least one of each must. Change num_stages or '
                'initial_scale.depth.')

    def _slots(self, depth: int) -> Slots:
        counts = self.split_depth(depth)
        smallest = self.split_depth(self._min_depth)
        return tuple(
            tuple(sorted(slot_order(len(group), least)[:count]))
            for group, least, count in zip(self.slot_groups, smallest, counts))

    def _apply_drop_path(self) -> None:
        slots = [group[index] for group, running in zip(self.slot_groups, self._running_slots)
                 for index in running]
        for slot, rate in zip(slots, np.linspace(0, self._drop_path_rate, len(slots))):
            for module in slot.modules():
                if isinstance(module, DropPath):
                    module.drop_prob = float(rate)


def _parameters_without_reset(slot: nn.Module) -> Iterator[Tuple[str, nn.Parameter]]:
    for prefix, module in slot.named_modules():
        if not hasattr(module, 'reset_parameters'):
            yield from module.named_parameters(prefix=prefix, recurse=False)
