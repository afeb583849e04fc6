# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What whole training steps take on this machine: loading, both passes and the update."""
import time
from itertools import islice
from statistics import median
from typing import Dict, Iterator, List, Optional, Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.dist import broadcast_object_list

from ..datasets.pipelines import leaves_of
from ..datasets.seeded import batch_size_of, spread_dataloader
from ..growth.subnet import Subnet
from ..utils.randomness import undisturbed
from .run_parts import RunParts
from .stage_inputs import StageInputs

# On the CPU steps are timed with as many images as take these multiply-adds in
# the full network's forward pass, but with at least some.
_CPU_FLOPS, _CPU_BATCH = 20e9, 8
_STEPS = 6  # of a subnet in each turn, after one that warms up
# Turns that are timed: as many as pass in these seconds, within these bounds.
_SECONDS, _LEAST_TURNS, _MOST_TURNS = 10., 5, 15


def time_training_steps(parts: RunParts, inputs: StageInputs, subnets: Sequence[Subnet],
                        max_batch: Optional[int] = None) -> Dict[Subnet, float]:
    """Seconds of a training step of any subnets, loading included.

    Real steps are made on real samples, with copies of the model and of all
    that its optimizer wrapper keeps, so nothing of the run is touched. Subnets
    take turns, so that a slow moment of the machine hits all. Where the data
    aren't on this machine, images are blank and loading isn't in it. Nothing is
    compiled. Pipelines deliver the full resolution after it. A collective call, for a model may
    synchronise in its forward pass.

    Args:
        parts (RunParts): Of a run that is about to train.
        inputs (StageInputs): Its samples.
        subnets (Sequence[Subnet]): Of its backbone.
        max_batch (int, optional): Images that fit into memory. Defaults to
            None, a whole batch.

    Returns:
        dict[Subnet, float]: Medians, the same on all ranks.
    """
    subnets = list(dict.fromkeys(subnets))
    loader, whole = inputs.loader, batch_size_of(inputs.loader)
    timed = timed_images(parts.model, whole, max_batch)
    with undisturbed():
        steps = _Steps(parts)
        # Workers load ahead until the last step that counts.
        ahead = loader.num_workers * (loader.prefetch_factor or 0)
        batches = spread_dataloader(loader, timed, 1 + _STEPS + ahead) if has_samples(loader) \
            else [None] * (1 + _STEPS)
        turn = left = 0
        while not turn or left:
            begin = time.perf_counter()
            for subnet in subnets:
                steps.prepare(subnet)
                parts.pipelines.set_resolution(subnet.resolution)
                steps.run(subnet, iter(batches), timed, counts=turn > 0)
            if not turn:
                left = 1 + _turns(time.perf_counter() - begin)
            turn, left = turn + 1, left - 1
        del batches  # and its workers
    parts.pipelines.set_resolution(parts.backbone.full_subnet.resolution)
    every = parts.optim_wrapper._accumulative_counts
    result = [{
        subnet: median(steps.passes[subnet]) * whole / timed + median(steps.updates[subnet]) / every
        for subnet in subnets}]
    broadcast_object_list(result)
    return result[0]


def timed_images(model: nn.Module, batch_size: int, max_batch: Optional[int] = None) -> int:
    """Of how many images a step is timed; on the CPU of so few that it doesn't take long.

    Args:
        model (Module): The classifier, without a model wrapper.
        batch_size (int): Images of a step.
        max_batch (int, optional): Images that fit into memory. Defaults to
            None, a whole batch.
    """
    batch_size = min(batch_size, max_batch or batch_size)
    if next(model.parameters()).device.type != 'cpu':
        return batch_size
    flops = model.backbone.flops(model.backbone.full_subnet)
    return min(batch_size, max(_CPU_BATCH, int(_CPU_FLOPS / flops)))


def has_samples(loader) -> bool:
    """Whether a dataloader's datasets are on this machine, and not only planned with."""
    return not any(getattr(leaf, 'is_planned', False) for leaf in leaves_of(loader.dataset))


class _Steps:
    """Makes and times training steps of copies."""

    def __init__(self, parts: RunParts) -> None:
        with parts.backbone.not_compiled():
            self.wrapper = parts.optim_wrapper.twin()
        self.model = self.wrapper._model
        self.passes: Dict[Subnet, List[float]] = {}
        self.updates: Dict[Subnet, List[float]] = {}
        self._device = next(self.model.parameters()).device
        self._own = 0.  # seconds of the update of the step under way
        self.model.train()
        # Each step ends with an update, and none changes how the next one goes.
        self.wrapper._accumulative_counts, self.wrapper.steps_per_epoch = 1, None
        for group in self.wrapper.param_groups:
            group['lr'] = 0.
        self.wrapper.step = self._timed(self.wrapper.step)

    def prepare(self, subnet: Subnet) -> None:
        """Have a subnet run from now on; up and down, as no run does."""
        self.model.backbone.set_subnet(subnet)
        self.wrapper.shrink(self.model.backbone, subnet)

    def run(self, subnet: Subnet, batches: Iterator[Optional[dict]], images: int,
            counts: bool) -> None:
        """Make steps of the subnet that is prepared, and time them if they count."""
        self._step(subnet, next(batches), images)  # warms up
        begin, updates = self._now(), 0.
        for batch in islice(batches, _STEPS):
            self._step(subnet, batch, images)
            updates += self._own
        if counts:
            seconds = self._now() - begin
            self.passes.setdefault(subnet, []).append((seconds - updates) / _STEPS)
            self.updates.setdefault(subnet, []).append(updates / _STEPS)
        for _ in batches:  # none may be under way when the resolution changes
            pass

    def _step(self, subnet: Subnet, batch: Optional[dict], images: int) -> None:
        if batch is not None:
            self.model.train_step(batch, self.wrapper)
            return
        blank = self._blank(subnet, images)
        with self.wrapper.optim_context(self.model):
            loss = F.cross_entropy(self.model(blank).float(), blank.new_zeros(
                len(blank), dtype=torch.int64))
        self.wrapper.update_params(loss)

    def _timed(self, make_step):
        def step(**kwargs) -> None:
            begin = self._now()
            make_step(**kwargs)
            self._own = self._now() - begin
        return step

    def _blank(self, subnet: Subnet, images: int) -> torch.Tensor:
        channels = next(m.in_channels for m in self.model.modules() if isinstance(m, nn.Conv2d))
        return torch.zeros(images, channels, subnet.resolution, subnet.resolution,
                           dtype=next(self.model.parameters()).dtype, device=self._device)

    def _now(self) -> float:
        if self._device.type == 'cuda':
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def _turns(seconds: float) -> int:
    """How many turns follow one of so many seconds, the same on all ranks."""
    turns = [min(_MOST_TURNS, max(_LEAST_TURNS, int(_SECONDS / seconds)))]
    broadcast_object_list(turns)
    return turns[0]
