# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What a backbone needs to run a subnet of itself."""
import logging
from abc import abstractmethod
from contextlib import contextmanager
from typing import Any, Callable, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import torch
import torch._dynamo
import torch.nn as nn
from mmcv.cnn.bricks import DropPath
from mmengine.logging import print_log

from ..growth.slots import slot_order
from ..growth.subnet import Subnet
from ..utils.errors import UserError

# One of each subnet, for each drop-path rate, of the longest of schedules.
_MAX_GRAPHS = 128


class ElasticBackbone:
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
        """Set the state up; to be called at the end of ``__init__``.

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
        _check_rate(drop_path_rate)
        self._drop_path_rate = drop_path_rate
        self._min_depth = self.full_subnet.depth
        self._active: Optional[Subnet] = None
        self._compile_options: Optional[dict] = None
        self._compiled: Optional[Callable] = None
        self.set_subnet(self.full_subnet)

    def set_channels_last(self, stem: nn.Module) -> None:
        """Keep the channels of the stem's convolutions last in memory.

        A convolution follows its weights, whose values stay the same.

        Args:
            stem (Module): What has the convolutions.
        """
        stem.to(memory_format=torch.channels_last)

    # ------------------------------------------------------------- subclasses

    @property
    @abstractmethod
    def slot_groups(self) -> Sequence[Sequence[nn.Module]]:
        """Sequence[Sequence[Module]]: The groups of slots, in forward order."""

    def split_depth(self, depth: int) -> Tuple[int, ...]:
        """How many of ``depth`` slots each group runs.

        Args:
            depth (int): Total number of awake slots.

        Returns:
            tuple[int]: One number a group.
        """
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

        Args:
            slot (nn.Module): One of the slots.
        """

    def drop_path_slots(self, slots: Sequence[Tuple[int, ...]]) -> List[nn.Module]:
        """The running slots over which drop path rises, in forward order.

        Args:
            slots (Sequence[tuple[int]]): Running slots of each group.
        """
        return [
            group[slot] for group, indices in zip(self.slot_groups, slots) for slot in indices
        ]

    # ------------------------------------------------------------------ state

    @property
    def min_depth(self) -> int:
        """int: The smallest depth of this run, which sets the waking order.

        Set once, before training. It defaults to the full depth.
        """
        return self._min_depth

    @min_depth.setter
    def min_depth(self, depth: int) -> None:
        if isinstance(depth, bool) or not isinstance(depth, int) or \
                not 1 <= depth <= self.full_subnet.depth:
            raise UserError(
                f'min_depth must be an int between 1 and the full depth of '
                f'{type(self).__name__} ({self.full_subnet.depth}), but got {depth!r}.')
        if self.awake_subnet.depth < depth:
            raise UserError(
                f'min_depth ({depth}) must not exceed the depth that runs '
                f'({self.awake_subnet.depth}); set it before the first set_subnet().')
        self._check_split(depth)
        self._min_depth = depth
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
    def awake_slots(self) -> Tuple:
        """tuple: Awake slots in forward order; with several groups, a tuple of one each."""
        return self._public(self._slots(self._subnet.depth))

    @property
    def running_subnet(self) -> Subnet:
        """Subnet: What the forward pass runs: :attr:`awake_subnet`, or in a search a part of it."""
        return self._active or self._subnet

    @property
    def running_slots(self) -> Tuple:
        """tuple: The slots that the forward pass runs, like :attr:`awake_slots`."""
        return self._public(self._running_slots)

    @property
    def drop_path_rate(self) -> float:
        """float: Drop-path rate of the last running slot; it rises linearly from 0."""
        return self._drop_path_rate

    @drop_path_rate.setter
    def drop_path_rate(self, rate: float) -> None:
        _check_rate(rate)
        self._drop_path_rate = rate
        self._apply_drop_path()

    def reset_slot(self, slot: nn.Module) -> None:
        """Give a slot fresh weights, as the constructor does.

        Args:
            slot (nn.Module): One of the slots.
        """
        for module in slot.modules():
            if hasattr(module, 'reset_parameters'):
                module.reset_parameters()

    def reset_constants(self, slot: nn.Module) -> None:
        """Give parameters that can't reset themselves their initial values.

        Args:
            slot (nn.Module): One of the slots.
        """
        for name, value in slot.initial_constants.items():
            slot.get_parameter(name).data.copy_(value)

    def slots_at(self, depth: int) -> Tuple[Tuple[int, ...], ...]:
        """The slots that are awake at ``depth``, one ascending tuple a group.

        Args:
            depth (int): Between :attr:`min_depth` and the full depth.
        """
        if not self._min_depth <= depth <= self.full_subnet.depth:
            raise UserError(
                f'depth must be between min_depth ({self._min_depth}) and the full depth of '
                f'{type(self).__name__} ({self.full_subnet.depth}), but got {depth}.')
        self._check_split(depth)
        return self._slots(depth)

    def check_subnet(self, subnet: Subnet) -> None:
        """Raise a ValueError unless this backbone can run ``subnet``."""
        if subnet.resolution % self.resolution_step:
            raise UserError(
                f'resolution ({subnet.resolution}) must be divisible by '
                f'{self.resolution_step}, the token size of {type(self).__name__}; change '
                'img_size, initial_scale.resolution or resolution_divisor.')
        self.slots_at(subnet.depth)

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
            subnet (Subnet): What to run from now on.

        Raises:
            ValueError: If the backbone can't run it.
        """
        self.check_subnet(subnet)
        self._subnet = subnet
        for group, awake in zip(self.slot_groups, self._slots(subnet.depth)):
            for index, slot in enumerate(group):
                for param in slot.parameters():
                    param.requires_grad_(index in awake)
                    if index not in awake:
                        param.grad = None
        self.activate(None)

    def activate(self, subnet: Optional[Subnet]) -> None:
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
        self._active = subnet
        self._running_slots = self._slots(self.running_subnet.depth)
        self._apply_drop_path()

    @contextmanager
    def activated(self, subnet: Subnet) -> Iterator[None]:
        """Context in which :meth:`activate` holds; what ran before runs again after it."""
        before = self._active
        self.activate(subnet)
        try:
            yield
        finally:
            self.activate(before)

    # ------------------------------------------------------------ compilation

    def compile_forward(self, **options) -> None:
        """Compile the forward passes of training, one graph a subnet.

        Args:
            **options: As ``torch.compile``, but ``dynamic`` is False unless it
                is given: a graph for any size is slower at each.
        """
        self._compile_options = {'dynamic': False, **options}
        config = torch._dynamo.config
        config.recompile_limit = max(config.recompile_limit, _MAX_GRAPHS)
        config.accumulated_recompile_limit = max(
            config.accumulated_recompile_limit, 2 * _MAX_GRAPHS)

    def run_compiled(self, function: Callable, *args) -> Any:
        """Call a function of the forward pass, compiled if that is asked for.

        Scoring and validation are not compiled, since a graph of theirs would
        be used a few times only.

        Args:
            function (Callable): A method that runs :attr:`running_slots`.
            *args: Its arguments.
        """
        if self._compile_options is None or not self.training or not torch.is_grad_enabled():
            return function(*args)
        if self._compiled is None:
            self._compiled = torch.compile(function, **self._compile_options)
        try:
            return self._compiled(*args)
        except torch._dynamo.exc.TorchDynamoException as error:
            self._compile_options = self._compiled = None
            reason = str(error).strip().splitlines()[0]
            print_log(
                f'{type(self).__name__} cannot be compiled here ({type(error).__name__}: '
                f'{reason}). Training goes on without.', logger='current', level=logging.WARNING)
            return function(*args)

    @contextmanager
    def not_compiled(self) -> Iterator[None]:
        """Context in which nothing is compiled, for passes of no lasting interest."""
        options, self._compile_options = self._compile_options, None
        try:
            yield
        finally:
            self._compile_options = options

    # ---------------------------------------------------------------- private

    def _check_split(self, depth: int) -> None:
        counts, sizes = self.split_depth(depth), [len(group) for group in self.slot_groups]
        if not all(1 <= count <= size for count, size in zip(counts, sizes)):
            running, existing = (' and '.join(map(str, numbers)) for numbers in (counts, sizes))
            raise UserError(
                f'{type(self).__name__} cannot run at depth {depth}: of its groups of {existing} '
                f'slots {running} would run, but at least one of each must. Change num_stages or '
                'initial_scale.depth.')

    def _slots(self, depth: int) -> Tuple[Tuple[int, ...], ...]:
        counts = self.split_depth(depth)
        smallest = self.split_depth(self._min_depth)
        return tuple(
            tuple(sorted(slot_order(len(group), least)[:count]))
            for group, least, count in zip(self.slot_groups, smallest, counts))

    def _public(self, slots):
        return slots[0] if len(slots) == 1 else slots

    def _apply_drop_path(self) -> None:
        slots = self.drop_path_slots(self._running_slots)
        for slot, rate in zip(slots, np.linspace(0, self._drop_path_rate, len(slots))):
            for module in slot.modules():
                if isinstance(module, DropPath):
                    module.drop_prob = float(rate)


def _parameters_without_reset(slot: nn.Module) -> Iterator[Tuple[str, nn.Parameter]]:
    for prefix, module in slot.named_modules():
        if not hasattr(module, 'reset_parameters'):
            yield from module.named_parameters(prefix=prefix, recurse=False)


def _check_rate(rate: float) -> None:
    if not 0 <= rate < 1:
        raise UserError(f'drop_path_rate must be in [0, 1), but got {rate!r}.')
