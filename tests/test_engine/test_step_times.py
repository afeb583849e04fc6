# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Timing whole training steps, which must leave no trace."""
import copy
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook

from autoprog_mm import Subnet
from autoprog_mm.apis.planned_data import PlannedDataset
from autoprog_mm.datasets.seeded import SeededDataset
from autoprog_mm.engine import run_budget, step_times
from autoprog_mm.engine.optimizers import MoGrowOptimWrapper
from autoprog_mm.engine.step_times import time_training_steps, timed_images
from tests.micro import differences, micro_config, run, volo_options

SMALL, MIDDLE, FULL = Subnet(2, 16), Subnet(3, 24), Subnet(4, 32)
NO_VALIDATION = dict(val_cfg=None, val_dataloader=None, val_evaluator=None,
                     default_hooks__checkpoint=None, train_cfg__max_epochs=4)


@pytest.fixture(autouse=True)
def few_turns(monkeypatch):
    monkeypatch.setattr(step_times, '_SECONDS', 0.)
    monkeypatch.setattr(step_times, '_LEAST_TURNS', 1)


class Probe(Hook):
    """Times steps where a run of a budget does, or in the middle of it, and stops."""

    def __init__(self, subnets, epoch=0, **options):
        self.subnets, self.epoch, self.options = subnets, epoch, options
        self.trained, self.found = [], None

    def before_train_epoch(self, runner):
        if runner.epoch < self.epoch:
            return
        hook = next(h for h in runner.hooks if hasattr(h, 'inputs'))
        model, preprocess = runner.model, type(runner.model.data_preprocessor).forward

        def note(module, data, training=False):
            if module is not model.data_preprocessor:
                self.trained.append((len(data['inputs']), data['inputs'].shape[-1]))
            return preprocess(module, data, training)

        before = state(runner)
        try:
            type(model.data_preprocessor).forward = note
            self.found = time_training_steps(
                hook.parts, hook.inputs, self.subnets, **self.options)
        finally:
            type(model.data_preprocessor).forward = preprocess
        self.differences = differences(before, state(runner))
        raise DoneError


class DoneError(Exception):
    """Nothing is to be trained after it."""


def timed(cfg, probe):
    with pytest.raises(DoneError):
        run(cfg, probe)
    return probe


def state(runner):
    """All that a run goes on from."""
    model, hub = runner.model, runner.message_hub
    return copy.deepcopy(dict(
        weights=dict(model.state_dict()),
        gradients={n: p.grad for n, p in model.named_parameters() if p.grad is not None},
        awake=[p.requires_grad for p in model.parameters()],
        modes=[module.training for module in model.modules()],
        subnets=[str(model.backbone.awake_subnet), str(model.backbone.running_subnet)],
        wrapper=runner.optim_wrapper.state_dict(),
        counts=runner.optim_wrapper._inner_count,
        rates=runner.optim_wrapper.get_lr(),
        scalars={k: len(v.data[0]) for k, v in hub.log_scalars.items()},
        drawn=[list(map(str, random.getstate())), list(map(str, np.random.get_state())),
               torch.get_rng_state()]))


@pytest.mark.parametrize('epoch, options', [
    (0, {}), (2, {}),
    (2, dict(optim_wrapper__accumulative_counts=4)),
    (2, dict(volo_options(), custom_hooks__0__num_stages=2)),
])
def test_timing_leaves_no_trace(jpeg_root, tmp_path, epoch, options):
    """Of weights, moments, momentum copies, gradients, counters and random draws."""
    subnets = [Subnet(3, 16), Subnet(6, 32)] if 'model__head' in options else [SMALL, FULL, SMALL]
    probe = Probe(subnets, epoch)
    timed(micro_config(jpeg_root, tmp_path, **NO_VALIDATION, **options), probe)
    assert set(probe.found) == set(subnets) and min(probe.found.values()) > 0
    assert probe.differences == []


def test_the_run_goes_on_as_if_nothing_had_been_timed(jpeg_root, tmp_path, monkeypatch):
    """A run of a budget of time ends with the weights of one whose costs are given."""
    options = dict(NO_VALIDATION, custom_hooks__0__num_stages=2, custom_hooks__0__speedup=2.,
                   custom_hooks__0__budget='time')
    timed = run(micro_config(jpeg_root, tmp_path / 'timed', **options))
    budget = next(hook.budget for hook in timed.hooks if hasattr(hook, 'inputs'))
    monkeypatch.setattr(run_budget, 'time_training_steps', lambda *_: budget.seconds)
    given = run(micro_config(jpeg_root, tmp_path / 'given', **options))
    assert differences(dict(timed.model.state_dict()), dict(given.model.state_dict())) == []


@pytest.mark.parametrize('workers', [0, 2])
def test_real_samples_at_each_resolution_in_whole_batches(jpeg_root, tmp_path, workers):
    """Also where workers load ahead: nothing is under way when the resolution changes."""
    probe = Probe([SMALL, MIDDLE, FULL], max_batch=3)
    timed(micro_config(jpeg_root, tmp_path, workers=workers, **NO_VALIDATION), probe)
    assert probe.trained == [(3, size) for size in (16, 24, 32) for _ in range(7)] * 2
    assert probe.differences == []


def test_what_a_step_is_made_of(jpeg_root, tmp_path, monkeypatch):
    """By a clock that only updates and loading move: 0.5 s an update, 0.1 s a sample."""
    now = [0.]
    monkeypatch.setattr(step_times.time, 'perf_counter', lambda: now[0])
    get, step = SeededDataset.__getitem__, MoGrowOptimWrapper.step

    def slow_get(self, item):
        now[0] += 0.1
        return get(self, item)

    def slow_step(self, **kwargs):
        now[0] += 0.5
        step(self, **kwargs)

    monkeypatch.setattr(SeededDataset, '__getitem__', slow_get)
    monkeypatch.setattr(MoGrowOptimWrapper, 'step', slow_step)
    probe = Probe([SMALL, FULL], max_batch=4)
    timed(micro_config(jpeg_root, tmp_path, optim_wrapper__accumulative_counts=2,
                       **NO_VALIDATION), probe)
    # A batch of eight is loaded, and every other step ends with an update.
    assert probe.found == {SMALL: pytest.approx(0.8 + 0.25), FULL: pytest.approx(0.8 + 0.25)}


def test_blank_images_where_there_are_no_data(jpeg_root, tmp_path):
    cfg = micro_config(jpeg_root, tmp_path, **NO_VALIDATION)
    cfg.train_dataloader.dataset = dict(
        type=PlannedDataset, samples=48, pipeline=cfg.train_dataloader.dataset.pipeline)
    probe = Probe([SMALL, FULL])
    timed(cfg, probe)
    assert set(probe.found) == {SMALL, FULL} and probe.trained == []
    assert probe.differences == []


def test_images_of_a_timed_step():
    model = torch.nn.Linear(1, 1)
    model.backbone = SimpleNamespace(full_subnet=FULL)
    for flops, batch, limit, expected in (
            (1e9, 128, None, 20), (4.6e9, 128, None, 8), (1e6, 32, None, 32), (4.6e9, 32, 4, 4)):
        model.backbone.flops = lambda subnet, flops=flops: flops
        assert timed_images(model, batch, limit) == expected


def test_larger_subnets_take_longer(jpeg_root, tmp_path):
    """24 times the multiply-adds leave no doubt, even on a busy machine."""
    probe = Probe([Subnet(2, 16), FULL])
    timed(micro_config(
        jpeg_root, tmp_path, **NO_VALIDATION, model__head__in_channels=192,
        model__backbone__arch=dict(_delete_=True, embed_dims=192, num_layers=4, num_heads=2,
                                   feedforward_channels=768)), probe)
    assert probe.found[FULL] > probe.found[Subnet(2, 16)]
