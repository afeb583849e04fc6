# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What a config's run will do, found out by starting it and stopping before its first step."""
import logging
import math
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Dict, List, Optional

import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmpretrain.datasets import ImageNet
from mmpretrain.registry import DATASETS, TRANSFORMS

from ..datasets.seeded import batch_size_of
from ..engine.accumulation import num_parts
from ..engine.hooks import AutoProgHook
from ..growth.probe import probe_steps
from ..growth.schedule import Stage
from ..growth.scoring import stage_choices
from ..growth.subnet import Subnet
from ..launch import build_runner, check_datasets
from ..planning.forecast import Forecast, Range
from ..planning.memory import saved_bytes
from ..utils.errors import UserError

# Images of ImageNet-1k, for those who plan where it isn't.
_KNOWN_SAMPLES = {'train': 1281167, 'val': 50000}
# On the CPU steps are timed with as many images as take these multiply-adds in
# the full network's forward pass, but with at least some.
_CPU_FLOPS, _CPU_BATCH = 20e9, 8


class _StopError(Exception):
    """Ends a run that was only to be planned."""


@DATASETS.register_module()
class PlannedDataset:
    """Stands in for a dataset that isn't on this machine; it has no samples to give.

    Args:
        samples (int): How many it would have.
        pipeline (Sequence[dict]): Its transforms, which are built.
    """

    def __init__(self, samples: int, pipeline=()) -> None:
        self.samples = samples
        self.pipeline = Compose([TRANSFORMS.build(transform) for transform in pipeline])

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> dict:
        raise IndexError('A dataset that is only planned has no samples.')


@dataclass
class SubnetPlan:
    """What a subnet costs.

    Args:
        parameters (int): Of the whole model that are awake.
        flops (float): Multiply-adds of an image's forward pass.
        memory (float): Bytes of a step, by estimate: weights, momentum
            copies, gradients, moments and activations.
        seconds (float | None): Of a training step, if it was measured.
    """

    parameters: int
    flops: float
    memory: float
    seconds: Optional[float] = None


@dataclass
class Plan:
    """What a run will do.

    Args:
        model (str): Class name of the backbone.
        full (Subnet): The full network.
        stages (list[Stage]): The manual schedule.
        candidates (list[list[Subnet]]): What each stage may run; one where
            nothing is open.
        search_epochs (int): Epochs of each search, 0 without.
        subnets (dict[Subnet, SubnetPlan]): Costs of all of them.
        epochs (int): Of the run.
        steps_per_epoch (int): Of each process.
        batch_size (int): Images of an update.
        step_batch (int): Images of a step of one process.
        samples (int): Training images.
        speed_up (Range): Of the steps against the full network from the
            start, between the dearest and the cheapest open choices.
        manual_speed_up (float): That of the manual schedule.
        search_share (float): Of the whole cost, what the searches do besides
            training, at most; 0 without.
        seconds (Range | None): Of all steps on this machine, if measured.
        notes (list[str]): What was assumed.
    """

    model: str
    full: Subnet
    stages: List[Stage]
    candidates: List[List[Subnet]]
    search_epochs: int
    subnets: Dict[Subnet, SubnetPlan]
    epochs: int
    steps_per_epoch: int
    batch_size: int
    step_batch: int
    samples: int
    speed_up: Range
    manual_speed_up: float
    search_share: float
    seconds: Optional[Range] = None
    notes: List[str] = field(default_factory=list)


def make_plan(cfg: Config, processes: int = 1, samples: Optional[int] = None,
              dtype: Optional[torch.dtype] = None, measure: bool = False) -> Plan:
    """Find out what a run will do.

    The run is set up as a training would, in a folder that is removed, up to
    the checks of its hooks. Data that isn't there is no error.

    Args:
        cfg (Config): As ``prepare_config`` gives it; it is changed.
        processes (int): Processes that will train. Defaults to 1.
        samples (int, optional): Training images, where the data isn't on this
            machine. Defaults to None: ImageNet's number for ImageNet.
        dtype (dtype, optional): In which activations are kept under autocast,
            for the estimate of memory. Defaults to None, the weights' own.
        measure (bool): Whether to time training steps. Defaults to False.

    Returns:
        Plan: The plan.

    Raises:
        ValueError: If data are missing and ``samples`` isn't given, or if the
            config has no ``AutoProgHook``, besides all that a training raises.
    """
    notes: List[str] = []
    for name in ('train_dataloader', 'val_dataloader'):
        _replace_missing_data(cfg, name, samples, notes)
    cfg.resume = False
    cfg.log_level = 'ERROR'
    cfg.vis_backends = [dict(type='LocalVisBackend')]
    cfg.visualizer = dict(type='Visualizer', vis_backends=cfg.vis_backends)
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir = folder
        cfg.experiment_name = f'plan_of_{folder}'  # mmengine keeps one runner a name
        MMLogger.get_instance('mmengine').setLevel(logging.ERROR)
        runner = build_runner(cfg)
        stop = _StopHook()
        runner.register_hook(stop, 'LOWEST')
        try:
            runner.train()
        except _StopError:
            pass
        hook = next((h for h in runner.hooks if isinstance(h, AutoProgHook)), None)
        if hook is None:
            raise UserError(
                'custom_hooks of the config has no AutoProgHook, so nothing grows and there is '
                "nothing to plan. dict(type='AutoProgHook', num_stages=1) is the baseline.")
        return _describe(runner, hook, processes, dtype, measure, notes)


class _StopHook(Hook):

    def before_train(self, runner) -> None:
        raise _StopError


def _replace_missing_data(cfg: Config, name: str, samples: Optional[int],
                          notes: List[str]) -> None:
    if cfg.get(name) is None:
        return
    try:
        check_datasets(cfg, (name, ))
    except ValueError as error:
        dataset = cfg[name].dataset
        split = 'train' if name == 'train_dataloader' else 'val'
        kind = DATASETS.get(dataset['type']) if isinstance(dataset['type'], str) else \
            dataset['type']
        number = samples if split == 'train' else None
        if number is None and kind is ImageNet:
            number = _KNOWN_SAMPLES[split]
        if number is None and split == 'val':
            number = 1  # of which nothing depends but the time of validations
        if number is None:
            raise UserError(
                f'{error} To plan without the data, say how many images there are: '
                '--samples N.') from None
        notes.append(f'{name}: the data are not here; {number} images assumed.')
        cfg[name].dataset = dict(
            type='PlannedDataset', samples=number, pipeline=dataset.get('pipeline', ()))


def _describe(runner, hook: AutoProgHook, processes: int, dtype: Optional[torch.dtype],
              measure: bool, notes: List[str]) -> Plan:
    loader, stages, search = runner.train_dataloader, hook.stages, hook.search
    step_batch = batch_size_of(loader)
    samples = len(loader.dataset)
    # Of one process the loader knows best, for samplers may repeat.
    steps = len(loader) if processes == 1 else _steps(
        samples, processes, step_batch, loader.drop_last)
    candidates = stage_choices(stages, search and search.bounds)
    full = hook.backbone.full_subnet
    subnets = list(dict.fromkeys(
        [*(s for part in candidates for s in part), *(stage.subnet for stage in stages), full]))
    costs = _estimate(runner, hook, subnets, step_batch, dtype)
    if measure:
        _measure(hook, costs, step_batch, notes)

    def step(subnet: Subnet) -> float:
        return costs[subnet].seconds if measure else costs[subnet].flops

    epochs = stages[-1].end_epoch
    baseline = steps * epochs * step(full)
    work = None if search is None else search.work(steps, step)
    whole = Forecast(stages, steps, step, work).whole()
    idle = None if work is None else replace(
        work, score=lambda some: 0., measure=lambda some: 0.)
    trained = Forecast(stages, steps, step, idle).whole()
    manual = sum((s.end_epoch - s.begin_epoch) * steps * step(s.subnet) for s in stages)
    return Plan(
        model=type(hook.backbone).__name__,
        full=full,
        stages=stages,
        candidates=candidates,
        search_epochs=0 if search is None else search.epochs,
        subnets=costs,
        epochs=epochs,
        steps_per_epoch=steps,
        batch_size=step_batch * processes * runner.optim_wrapper._accumulative_counts,
        step_batch=step_batch,
        samples=samples,
        speed_up=Range(baseline / whole.high, baseline / whole.low),
        manual_speed_up=baseline / manual,
        search_share=max(1 - t / w for t, w in zip(trained, whole)),
        seconds=whole if measure else None,
        notes=notes)


def _steps(samples: int, processes: int, batch_size: int, drop_last: bool) -> int:
    share = math.ceil(samples / processes)
    return share // batch_size if drop_last else math.ceil(share / batch_size)


def _estimate(runner, hook: AutoProgHook, subnets: List[Subnet], step_batch: int,
              dtype: Optional[torch.dtype]) -> Dict[Subnet, SubnetPlan]:
    model, backbone = hook.model, hook.backbone
    total = sum(p.numel() for p in model.parameters())
    copies = 1 + len(runner.optim_wrapper.ema_decays)
    awake, fixed, image = {}, {}, {}
    device = next(model.parameters()).device.type
    for subnet in subnets:
        backbone.set_subnet(subnet)
        awake[subnet] = sum(p.numel() for p in model.parameters() if p.requires_grad)
        with nullcontext() if dtype is None else torch.autocast(device, dtype):
            one, two = (saved_bytes(model, subnet, number) for number in (1, 2))
        image[subnet] = two - one
        # In float32: the weights with their momentum copies, and for what is
        # awake the gradient and the two moments of Adam.
        fixed[subnet] = 4 * (copies * total + 3 * awake[subnet]) + max(0, one - image[subnet])
    backbone.set_subnet(backbone.full_subnet)
    costs = {}
    for subnet in subnets:
        parts = 1 if hook.max_batch_per_step is None else num_parts(
            step_batch, hook.max_batch_per_step, image[subnet] / image[backbone.full_subnet])
        costs[subnet] = SubnetPlan(awake[subnet], backbone.flops(subnet),
                                   fixed[subnet] + math.ceil(step_batch / parts) * image[subnet])
    return costs


def _measure(hook: AutoProgHook, costs: Dict[Subnet, SubnetPlan], step_batch: int,
             notes: List[str]) -> None:
    device = next(hook.model.parameters()).device.type
    batch = min(step_batch, hook.max_batch_per_step or step_batch)
    if device == 'cpu':
        flops = hook.backbone.flops(hook.backbone.full_subnet)
        batch = min(batch, max(_CPU_BATCH, int(_CPU_FLOPS / flops)))
    if batch < step_batch:
        notes.append(f'Steps were timed with {batch} images and scaled to {step_batch}.')
    notes.append('Measured steps are forward and backward passes: the optimizer and waiting for '
                 'data are not in them, nor is validation.')
    times = probe_steps(hook.model, hook.optim_wrapper, list(costs), batch)
    for subnet, seconds in times.items():
        costs[subnet].seconds = seconds * step_batch / batch
