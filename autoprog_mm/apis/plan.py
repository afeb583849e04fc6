# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What a config's run will do, found out by starting it and stopping before its first step."""
import logging
import math
import tempfile
from dataclasses import dataclass, field
from typing import Dict, Iterable, List, Optional

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MMLogger

from ..datasets.seeded import batch_size_of
from ..engine.hooks import AutoProgHook, MicroBatchHook
from ..engine.micro_batches import num_parts
from ..engine.rates import foretell_stage_rates
from ..engine.step_times import has_samples, time_training_steps, timed_images
from ..growth.course import Course
from ..growth.schedule import Stage
from ..growth.scoring import stage_choices
from ..growth.subnet import Subnet
from ..launch import build_runner, check_datasets
from ..planning.forecast import Range
from ..planning.memory import step_bytes
from ..planning.outlook import look_ahead
from ..utils.errors import UserError
from ..utils.modules import unwrap
from .planned_data import replace_missing_data


@dataclass
class SubnetPlan:
    """What a subnet costs.

    Args:
        parameters (int): Of the whole model that are awake.
        flops (float): Multiply-adds of an image's forward pass.
        memory (float): Bytes of a step, by estimate: weights, momentum
            copies, gradients, moments and activations.
        seconds (float, optional): Of a training step, if it was measured.
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
        course (Course): What it costs, in epochs of the full network.
        budget (str): What that cost is: ``'time'`` or ``'flops'``.
        rates (list[list[float]], optional): Base learning rates at the ends of each
            stage; None if they wait for the results of validations.
        steps_per_epoch (int): Of each process.
        batch_size (int): Images of an update.
        step_batch (int): Images of a step of one process.
        samples (int): Training images.
        speed_up (Range): Of the steps against the full network from the
            start, between the dearest and the cheapest open choices.
        manual_speed_up (float): That of the manual schedule.
        search_share (float): Of the whole cost, what the searches do besides
            training, at most; 0 without.
        seconds (Range, optional): Of all steps on this machine, if measured.
        notes (list[str]): What was assumed.
    """

    model: str
    full: Subnet
    stages: List[Stage]
    candidates: List[List[Subnet]]
    search_epochs: int
    subnets: Dict[Subnet, SubnetPlan]
    epochs: int
    course: Course
    budget: str
    rates: Optional[List[List[float]]]
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
    notes = [replace_missing_data(cfg, name, samples)
             for name in ('train_dataloader', 'val_dataloader') if cfg.get(name) is not None]
    check_datasets(cfg, ('train_dataloader', 'val_dataloader'))  # of those that are here, together
    cfg.resume = False
    cfg.log_level = 'ERROR'
    cfg.visualizer = dict(type='Visualizer', vis_backends=[])
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir = folder
        cfg.experiment_name = f'plan_of_{folder}'  # mmengine keeps one runner a name
        MMLogger.get_instance('mmengine').setLevel(logging.ERROR)
        runner = build_runner(cfg)
        runner.register_hook(_StopHook(), 'LOWEST')
        hook = next((h for h in runner.hooks if isinstance(h, AutoProgHook)), None)
        if hook is not None and hook.budget.speedup is not None and not measure:
            if hook.budget.of == 'time':
                notes.append('The run itself times its steps first; here multiply-adds count '
                             '(--measure times steps on this machine).')
            hook.budget.of = 'flops'
        try:
            runner.train()
        except _StopError:
            pass
        if hook is None:
            raise UserError(
                'custom_hooks of the config has no AutoProgHook, so nothing grows and there is '
                "nothing to plan. dict(type='AutoProgHook', num_stages=1) is the baseline.")
        return _describe(runner, hook, processes, dtype, measure, list(filter(None, notes)))


class _StopError(Exception):
    """Ends a run that was only to be planned."""


class _StopHook(Hook):

    def before_train(self, runner) -> None:
        raise _StopError


def _describe(runner, hook: AutoProgHook, processes: int, dtype: Optional[torch.dtype],
              measure: bool, notes: List[str]) -> Plan:
    loader, stages, search = runner.train_dataloader, hook.stages, hook.search
    backbone = unwrap(runner.model).backbone
    step_batch, samples = batch_size_of(loader), len(loader.dataset)
    # What a sampler draws is what processes share; of one the loader knows best.
    drawn = len(getattr(loader.batch_sampler, 'sampler', loader.sampler))
    steps = len(loader) if processes == 1 else _steps(
        drawn, processes, step_batch, loader.drop_last)
    candidates = stage_choices(stages, search is not None)
    full = backbone.full_subnet
    limit = next((h.max_batch_per_step for h in runner.hooks if isinstance(h, MicroBatchHook)),
                 None)
    costs = _estimate(runner, dict.fromkeys(
        [*(s for part in candidates for s in part), *(stage.subnet for stage in stages), full]),
        step_batch, limit, dtype)
    if measure:
        notes += _measure(runner, hook, costs, limit)

    def step(subnet: Subnet) -> float:
        return costs[subnet].seconds if measure else costs[subnet].flops

    course = hook.budget.course
    outlook = look_ahead(course, steps, step, search)
    return Plan(
        model=type(backbone).__name__,
        full=full,
        stages=stages,
        candidates=candidates,
        search_epochs=0 if search is None else search.epochs,
        subnets=costs,
        epochs=course.max_epochs,
        course=course,
        budget=hook.budget.of,
        rates=_rates(runner, hook),
        steps_per_epoch=steps,
        batch_size=step_batch * processes * runner.optim_wrapper._accumulative_counts,
        step_batch=step_batch,
        samples=samples,
        speed_up=outlook.speed_up,
        manual_speed_up=outlook.manual_speed_up,
        search_share=outlook.search_share,
        seconds=outlook.whole if measure else None,
        notes=notes)


def _rates(runner, hook: AutoProgHook) -> Optional[List[List[float]]]:
    """Base learning rates at the ends of stages."""
    ends = foretell_stage_rates(runner, hook.budget.course)
    return ends and [list(pair) for pair in zip(ends, ends[1:])]


def _steps(samples: int, processes: int, batch_size: int, drop_last: bool) -> int:
    share = math.ceil(samples / processes)
    return share // batch_size if drop_last else math.ceil(share / batch_size)


def _estimate(runner, subnets: Iterable[Subnet], step_batch: int, max_batch: Optional[int],
              dtype: Optional[torch.dtype]) -> Dict[Subnet, SubnetPlan]:
    model = unwrap(runner.model)
    backbone, full = model.backbone, model.backbone.full_subnet
    copies = 1 + len(runner.optim_wrapper.ema_decays)
    device = next(model.parameters()).device.type
    costs, images = {}, {}
    for subnet in subnets:
        backbone.set_subnet(subnet)
        with torch.autocast(device, dtype, enabled=dtype is not None):
            fixed, images[subnet] = step_bytes(model, subnet, copies)
        costs[subnet] = SubnetPlan(
            sum(p.numel() for p in model.parameters() if p.requires_grad),
            backbone.flops(subnet), fixed)
    backbone.set_subnet(full)
    for subnet, cost in costs.items():
        parts = 1 if max_batch is None else num_parts(
            step_batch, max_batch, images[subnet] / images[full])
        cost.memory += math.ceil(step_batch / parts) * images[subnet]
    return costs


def _measure(runner, hook: AutoProgHook, costs: Dict[Subnet, SubnetPlan],
             max_batch: Optional[int]) -> List[str]:
    """Time a step of each subnet; returns notes on how."""
    loader = runner.train_dataloader
    whole = batch_size_of(loader)
    timed, notes = timed_images(unwrap(runner.model), whole, max_batch), []
    if timed < whole:
        notes.append(f'Steps were timed with {timed} images and scaled to {whole}.')
    notes.append(
        'Measured steps are whole ones, with loading; validation is not in them.'
        if has_samples(loader) else 'The data are not here, so that loading is not in the '
        'measured steps, nor is validation.')
    # A run with a budget of time has timed them already.
    seconds = hook.budget.seconds or time_training_steps(
        hook.parts, hook.inputs, list(costs), max_batch)
    for subnet, cost in costs.items():
        cost.seconds = seconds[subnet]
    return notes
