# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Plans of micro configs, whose numbers are worked out by hand."""
import os

import pytest

from autoprog_mm import Subnet
from autoprog_mm.apis import plan as plan_module
from autoprog_mm.apis.plan import make_plan
from autoprog_mm.engine import run_budget, step_times
from autoprog_mm.planning.forecast import Range
from autoprog_mm.utils import UserError
from tests.micro import STAGES, micro_config, volo_options

SMALL, MIDDLE, FULL = Subnet(2, 16), Subnet(3, 24), Subnet(4, 32)


def config(tmp_path, search=None, limit=None, **options):
    """Of data that aren't there, with so many images in memory at once."""
    cfg = micro_config(tmp_path / 'nowhere', tmp_path / 'never', search, **options)
    if limit is not None:
        cfg.custom_hooks.append(dict(type='MicroBatchHook', max_batch_per_step=limit))
    return cfg


def test_manual_schedule(tmp_path):
    """Without the data, for eight processes."""
    plan = make_plan(config(tmp_path), processes=8)
    assert plan.model == 'ElasticDeiT' and plan.full == FULL
    assert [(s.begin_epoch, s.end_epoch, s.subnet.depth, s.subnet.resolution)
            for s in plan.stages] == STAGES
    assert plan.candidates == [[SMALL], [MIDDLE], [MIDDLE], [FULL]]
    assert (plan.search_epochs, plan.search_share, plan.seconds) == (0, 0, None)
    # 160,146 images a process, 8 a step.
    assert (plan.samples, plan.steps_per_epoch) == (1281167, 20019)
    assert (plan.epochs, plan.batch_size, plan.step_batch) == (8, 64, 8)
    assert plan.notes == ['train_dataloader: the data are not here; 1281167 images assumed.',
                          'val_dataloader: the data are not here; 50000 images assumed.']
    # Patches of 8 px: 4, 9 and 16, with the class token 5, 10 and 17. A patch is embedded by 192 *
    # 16 multiply-adds; a layer has 2048 for each token, and 2 * 16 for each pair.
    flops = {SMALL: 4 * 3072 + 2 * (5 * 2048 + 25 * 32),
             MIDDLE: 9 * 3072 + 3 * (10 * 2048 + 100 * 32),
             FULL: 16 * 3072 + 4 * (17 * 2048 + 289 * 32)}
    assert {subnet: cost.flops for subnet, cost in plan.subnets.items()} == flops
    # A layer has 2048 weights, 112 biases and two norms; the rest are 3088 of the patches, 18 * 16
    # of tokens and positions, 32 of the norm and 68 of the head.
    assert {subnet: cost.parameters for subnet, cost in plan.subnets.items()} == {
        s: s.depth * (2048 + 112 + 64) + 3088 + 288 + 32 + 68 for s in (SMALL, MIDDLE, FULL)}
    speed_up = 4 * flops[FULL] / (flops[SMALL] + 2 * flops[MIDDLE] + flops[FULL])
    assert plan.speed_up == pytest.approx((speed_up, ) * 2)
    assert plan.manual_speed_up == pytest.approx(speed_up)
    assert os.listdir(tmp_path) == []


def test_budget(tmp_path):
    """Two stages of a budget of 20 epochs, and the learning rate at its shares."""
    plan = make_plan(config(tmp_path, custom_hooks__0__num_stages=2, custom_hooks__0__speedup=2.,
                            train_cfg__max_epochs=40, param_scheduler=[
                                dict(type='LinearLR', start_factor=0.5, end_factor=0., end=40)]),
                     samples=48)
    cost = {s: c.flops / plan.subnets[FULL].flops for s, c in plan.subnets.items()}
    # Ten whole epochs, and ten in the cheaper first stage.
    epochs = round(10 / cost[SMALL])
    assert [(s.begin_epoch, s.end_epoch) for s in plan.stages] == [
        (0, epochs), (epochs, epochs + 10)]
    total = epochs * cost[SMALL] + 10
    assert plan.epochs == epochs + 10 and plan.course.epochs == 40
    assert plan.speed_up == pytest.approx([40 / total] * 2)
    assert any('The run itself times its steps first' in note for note in plan.notes)
    # A staircase of epochs: 0.5 falls to 0 in 39 steps, and half of it is over at the growth.
    passed = int(40 * epochs * cost[SMALL] / total + 1e-6)
    assert plan.rates[0] == pytest.approx([1.5e-3, 1.5e-3 * (1 - passed / 39)], rel=0.03)
    assert plan.rates[1][1] == pytest.approx(0., abs=1e-9)


def test_rates_are_those_of_the_run(tmp_path):
    """The base rate, where parameters have others, and scaled as the config says."""
    rates = make_plan(config(
        tmp_path, param_scheduler=None, optim_wrapper__optimizer__lr=0.01,
        optim_wrapper__paramwise_cfg=dict(custom_keys={'cls_token': dict(lr_mult=0.5)}),
        auto_scale_lr=dict(enable=True, base_batch_size=4)), samples=48).rates
    assert rates == [[pytest.approx(0.02)] * 2] * 4  # of batches of 8


def test_search(tmp_path, monkeypatch):
    """On a machine where each step takes as many seconds as the subnet has slots."""
    monkeypatch.setattr(plan_module, 'time_training_steps', lambda parts, inputs, subnets, _: {
        s: float(s.depth) for s in subnets})
    cfg = config(tmp_path, dict(
        type='OneShotSearch', epochs=1, eval_batches=2, evals=(1, 1), cost='time'),
        custom_hooks__0__num_stages=2)
    plan = make_plan(cfg, samples=48, measure=True)
    candidates = [Subnet(d, r) for d in (2, 4) for r in (16, 32)]
    assert plan.candidates == [candidates, [FULL]] and plan.search_epochs == 1
    # Epochs of 6 steps: one of the supernet, of 3 seconds a step, three of the choice, four of the
    # full network. The search scores two batches twice, a third of a step each, and times each
    # candidate 6 times.
    own = 12 * (2 * 2 / 3 + 6)
    low, high = 18 + 36 + 96, 18 + 72 + 96
    assert plan.seconds == pytest.approx((low + own, high + own))
    assert plan.search_share == pytest.approx(own / (low + own))
    assert plan.speed_up == pytest.approx((192 / (high + own), 192 / (low + own)))
    # Four epochs of two slots.
    assert plan.manual_speed_up == pytest.approx(192 / (48 + 96))


@pytest.mark.parametrize('limit, notes', [(None, 1), (4, 2)])
def test_measured(tmp_path, monkeypatch, limit, notes):
    """On a machine on which an image takes a second for each slot and 96 pixels."""
    limits = []

    def time_steps(parts, inputs, subnets, max_batch):
        limits.append(max_batch)
        return {s: 6 * s.depth * s.resolution / 96 for s in subnets}

    monkeypatch.setattr(plan_module, 'time_training_steps', time_steps)
    plan = make_plan(config(tmp_path, train_dataloader__batch_size=6,
                            limit=limit), samples=48, measure=True)
    assert limits == [limit]
    # Two epochs of 8 steps each of 2x16, 3x24, 3x24 and 4x32: 2, 4.5, 4.5 and 8 seconds.
    assert plan.seconds == pytest.approx([16 * 19] * 2)
    assert plan.speed_up == pytest.approx([4 * 8 / 19] * 2)
    assert len(plan.notes) == 2 + notes
    assert any('timed with 4 images and scaled to 6' in note for note in plan.notes) == (
        limit is not None)


def test_steps_are_timed_only_when_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(plan_module, 'time_training_steps', None)
    assert make_plan(config(tmp_path)).subnets[FULL].seconds is None
    monkeypatch.undo()
    monkeypatch.setattr(step_times, '_SECONDS', 0.)
    plan = make_plan(config(tmp_path), measure=True)
    assert any('The data are not here, so that loading' in note for note in plan.notes)
    assert all(cost.seconds > 0 for cost in plan.subnets.values())
    assert isinstance(plan.seconds, Range) and plan.seconds.low > 0


def test_a_budget_of_time_is_timed_once(jpeg_root, tmp_path, monkeypatch):
    """By the run, whose seconds the plan tells; the data are here, so loading is in them."""
    calls = []

    def time_steps(parts, inputs, subnets, max_batch):
        calls.append(subnets)
        return {s: float(s.depth) for s in subnets}

    for module in (plan_module, run_budget):
        monkeypatch.setattr(module, 'time_training_steps', time_steps)
    plan = make_plan(micro_config(jpeg_root, tmp_path, custom_hooks__0__speedup=2.), measure=True)
    assert len(calls) == 1 and plan.budget == 'time'
    assert {s: cost.seconds for s, cost in plan.subnets.items()} == {SMALL: 2, MIDDLE: 3, FULL: 4}
    # Of half of 8 epochs of 6 steps of 4 seconds.
    assert plan.seconds == pytest.approx([96, 96], abs=6)
    assert plan.notes == [
        'Measured steps are whole ones, with loading; validation is not in them.']


def test_memory_follows_the_stage_and_the_limit(tmp_path):
    def memory(**options):
        plan = make_plan(config(tmp_path, train_dataloader__batch_size=16, **options))
        return [plan.subnets[subnet].memory for subnet in (SMALL, MIDDLE, FULL)]

    free, limited = memory(), memory(limit=8)
    assert free == sorted(free)
    # In parts of 8 in the full network; in the first stage all 16 fit, as before.
    assert limited[0] == free[0] and limited[2] < free[2]


def test_volo_and_baseline(tmp_path):
    plan = make_plan(config(tmp_path, custom_hooks__0__num_stages=1, **volo_options()))
    assert plan.model == 'ElasticVOLO'
    assert plan.candidates == [[Subnet(6, 32)]]
    assert plan.speed_up == (1, 1)


def test_mistakes(tmp_path):
    cfg = config(tmp_path)
    for name in ('train_dataloader', 'val_dataloader'):
        cfg[name].dataset.type = 'CustomDataset'
        del cfg[name].dataset['split']
    with pytest.raises(UserError, match=r'there is no folder(.|\n)*--samples N'):
        make_plan(cfg.copy())
    assert make_plan(cfg, samples=16).notes == [
        'train_dataloader: the data are not here; 16 images assumed.',
        'val_dataloader: the data are not here; 1 images assumed.']
    with pytest.raises(UserError, match='has no AutoProgHook'):
        make_plan(config(tmp_path, custom_hooks=[]))
