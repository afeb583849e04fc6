# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Runs that cost a given part of what their recipe would."""
import re

import numpy as np
import pytest
from mmengine.hooks import Hook

from autoprog_mm import Subnet
from autoprog_mm.engine import run_budget
from autoprog_mm.utils import UserError
from tests.micro import STEPS, load, micro_config, read_record, run
from tests.test_engine.resuming import (
    EVERY_STEP,
    SEARCHES,
    assert_same_state,
    resumed_until,
    run_until,
)

SPEEDUP = dict(custom_hooks__0__speedup=2., custom_hooks__0__budget='flops')
SEARCH = SEARCHES[1]


class Note(Hook):
    """Notes the learning rate of each step, what ran, and which epochs were validated."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.rates, self.subnets, self.validated = [], [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.rates.append(runner.optim_wrapper.param_groups[0]['lr'])
        self.subnets.append(runner.model.backbone.running_subnet)

    def after_val_epoch(self, runner, metrics=None):
        self.validated.append(runner.epoch)


@pytest.fixture(scope='module')
def budgeted(jpeg_root, tmp_path_factory):
    note = Note()
    folder = tmp_path_factory.mktemp('budgeted')
    runner = run(micro_config(jpeg_root, folder, **SPEEDUP), note)
    return folder, runner, note


def test_the_run_costs_what_was_promised(budgeted):
    folder, runner, note = budgeted
    backbone = runner.model.backbone
    spent = sum(backbone.flops(subnet) for subnet in note.subnets)
    of_recipe = 8 * STEPS * backbone.flops(backbone.full_subnet)
    cheapest = STEPS * backbone.flops(note.subnets[0])
    assert abs(spent - of_recipe / 2) <= cheapest / 2
    record = read_record(folder)
    assert record['finished']
    assert record['stages'][-1]['end_epoch'] * STEPS == len(note.subnets) == runner.iter
    assert len(note.subnets) > 8 * STEPS  # epochs are many, for most are cheap


def test_the_plan_is_said_before_training(budgeted):
    """In five lines, whose epochs and learning rates are those that the run had."""
    folder, runner, note = budgeted
    log = next(folder.glob('*/*.log')).read_text()
    first, *rows = log[log.index('Plan: '):].splitlines()[:5]
    assert first.startswith(
        f'Plan: {runner.epoch} epochs for the 8 of the recipe. Speed-up: promised 2, by flops; '
        'comes to ')
    stages = read_record(folder)['stages']
    rows = [row.split() for row in rows]
    assert rows[0] == ['stage', *(str(Subnet(**stage['subnet'])) for stage in stages)]
    assert rows[1] == ['epochs', *(
        str(stage['end_epoch'] - stage['begin_epoch']) for stage in stages)]
    said = [float(rate) for rate in rows[3][2:6]]
    assert said == pytest.approx(
        [note.rates[stage['begin_epoch'] * STEPS] for stage in stages], rel=0.01)
    assert 1e-5 <= float(rows[3][-1]) < note.rates[-1]
    assert 'times as fast as the full network at most' not in log


@pytest.mark.parametrize('speedup', [None, 1.2])
def test_searches_that_eat_too_much_are_said(jpeg_root, tmp_path, speedup):
    cfg = micro_config(
        jpeg_root, tmp_path, dict(SEARCH, eval_batches=6, evals=(3, 3)), train_cfg__max_epochs=40,
        custom_hooks__0__budget='flops', custom_hooks__0__speedup=speedup)
    run_until(cfg, 0)
    log = next(tmp_path.glob('*/*.log')).read_text()
    share = float(re.search(r'own work, scoring and timing, is up to ([\d.]+)% of the run. Lower '
                            'search.eval_batches or search.evals of AutoProgHook', log)[1])
    assert 5 < share < 50


@pytest.mark.parametrize('options, said', [
    (dict(custom_hooks__0__speedup=1.05), 'times as fast as the full network at most. Raise speed'),
    (dict(custom_hooks__0__speedup=1.05, custom_hooks__0__num_stages=1), ''),
    (dict(custom_hooks__0__speedup=None, custom_hooks__0__initial_scale=dict(_delete_=True)),
     'Lower initial_scale of AutoProgHook, or set its speedup.'),
])
def test_what_saves_little_is_said(jpeg_root, tmp_path, options, said):
    """But not of one stage, where nobody expects more than was asked for."""
    cfg = micro_config(jpeg_root, tmp_path, **{**SPEEDUP, **options})
    run_until(cfg, 1)
    log = next(tmp_path.glob('*/*.log')).read_text()
    begin = log.split('Stage 1/')[0]
    assert said in begin and ('times as fast' in begin) == bool(said)


def test_learning_rates_are_the_recipes_at_the_same_share(budgeted, jpeg_root, tmp_path):
    """Those of a run without a budget, played at the share of multiply-adds that is spent."""
    _, runner, note = budgeted
    plain = Note()
    run(micro_config(jpeg_root, tmp_path, custom_hooks__0__num_stages=1,
                     val_cfg=None, val_dataloader=None, val_evaluator=None), plain)
    flops = [runner.model.backbone.flops(subnet) for subnet in note.subnets]
    for step, rate in enumerate(note.rates):
        moment = 8 * STEPS * sum(flops[:step]) / sum(flops)
        low = min(int(moment + 1e-6), len(plain.rates) - 1)
        high = min(low + 1, len(plain.rates) - 1)
        expected = plain.rates[low] + (moment - low) * (plain.rates[high] - plain.rates[low])
        if moment < len(plain.rates) - 1:
            assert rate == pytest.approx(expected, rel=1e-6), step


def test_components_hear_of_the_runs_own_length(budgeted):
    """From the message hub, where mmengine tells them before the length is known."""
    _, runner, _ = budgeted
    hub = runner.message_hub
    assert [hub.get_info('max_epochs'), hub.get_info('max_iters')] == [runner.epoch, runner.iter]


def test_validations_and_checkpoints_keep_the_recipes_rhythm(budgeted):
    folder, runner, note = budgeted
    # Eight epochs of the recipe pass in more of the run: one validation for each at most.
    assert len(note.validated) <= 8 < runner.epoch
    assert note.validated[-1] == runner.epoch
    saved = sorted(int(path.stem.split('_')[1]) for path in folder.glob('epoch_*.pth'))
    assert saved == note.validated


def test_resume_is_exact_at_any_step(budgeted, jpeg_root, tmp_path):
    cfg = micro_config(jpeg_root, tmp_path / 'whole', **SPEEDUP, **EVERY_STEP)
    last = 14
    run_until(cfg, last)
    for step in (1, 5, 6, 13):
        cfg = micro_config(jpeg_root, tmp_path / str(step), **SPEEDUP, **EVERY_STEP)
        resumed_until(cfg, tmp_path / 'whole' / f'iter_{step}.pth', step + 1)
        assert_same_state(tmp_path / 'whole' / f'iter_{step + 1}.pth',
                          tmp_path / str(step) / f'iter_{step + 1}.pth')


def test_a_searched_run_costs_what_was_promised(jpeg_root, tmp_path):
    options = dict(SPEEDUP, train_cfg__max_epochs=40)
    runner = run(micro_config(jpeg_root, tmp_path, SEARCH, **options))
    plan = next(hook.budget.course for hook in runner.hooks if hasattr(hook, 'budget'))
    spent, searches, stages = 0., 0, read_record(tmp_path)['stages']
    for stage in stages:
        epochs = stage['end_epoch'] - stage['begin_epoch']
        if stage['search'] is not None:
            searches += 1
            epochs -= 1
            spent += plan.search_cost([
                Subnet(c['depth'], c['resolution']) for c in stage['search']['candidates']])
        spent += epochs * plan.costs[Subnet(**stage['subnet'])]
    assert searches and runner.epoch == stages[-1]['end_epoch']
    last_free = plan.costs[Subnet(**stages[-2]['subnet'])]
    assert abs(spent - 20) <= last_free / 2
    # The recipe has come to its end with the run.
    assert plan.timeline.recipe_epoch(runner.epoch) == pytest.approx(40)


def test_a_choice_at_equal_compute(jpeg_root, tmp_path):
    """What the rest of the stage's budget makes of each candidate's losses, by numpy."""
    search = dict(SEARCH, evals=(3, 1), rule='compute')
    run_until(micro_config(jpeg_root, tmp_path, search, **SPEEDUP, train_cfg__max_epochs=40), STEPS)
    found = read_record(tmp_path)['stages'][0]['search']
    costs = [c['flops'] / found['candidates'][-1]['flops'] for c in found['candidates']]
    # Of 20 epochs of the full network four stages have 5 each. The search has an epoch of all
    # candidates, and four scorings of two batches, of the six of an epoch.
    rest = 5 - sum(costs) / len(costs) - 4 * 2 / 3 * sum(costs) / STEPS
    expected = []
    for c, cost in zip(found['candidates'], costs):
        slope, level = np.polyfit(np.log([2, 4, 6]), np.log(c['losses'][1:]), 1)
        expected.append(np.exp(level + slope * np.log(STEPS + STEPS * rest / cost)) if slope < 0
                        else np.exp(np.mean(np.log(c['losses'][1:]))))
    assert [c['score'] for c in found['candidates']] == pytest.approx(expected)
    assert [c['chosen'] for c in found['candidates']].index(True) == np.argmin(expected)
    assert found['rule'] == 'compute'


def test_resume_is_exact_after_a_decision(jpeg_root, tmp_path):
    """It changes the share that is spent, and so the learning rate of the very next step."""
    options = dict(
        SPEEDUP, **EVERY_STEP, train_cfg__max_epochs=24, val_cfg=None, val_dataloader=None,
        val_evaluator=None, default_hooks__checkpoint__save_best=None)
    run_until(micro_config(jpeg_root, tmp_path / 'whole', SEARCH, **options), STEPS + 1)
    resumed_until(micro_config(jpeg_root, tmp_path / 'resumed', SEARCH, **options),
                  tmp_path / 'whole' / f'iter_{STEPS}.pth', STEPS + 1)
    # The plan that a run begins with does not hold any more.
    begun, resumed = (next((tmp_path / name).glob('*/*.log')).read_text()
                      for name in ('whole', 'resumed'))
    assert 'Plan: ' in begun and 'Plan: ' not in resumed
    assert_same_state(tmp_path / 'whole' / f'iter_{STEPS + 1}.pth',
                      tmp_path / 'resumed' / f'iter_{STEPS + 1}.pth')


@pytest.mark.parametrize('options, message', [
    (dict(custom_hooks__0__speedup=50.), r'speedup=50 of AutoProgHook leaves too little'),
    (dict(train_cfg=dict(_delete_=True, by_epoch=True, max_epochs=8)),
     r"needs train_cfg.type='ResumableTrainLoop'"),
    (dict(train_cfg=dict(_delete_=True, by_epoch=False, max_iters=48)),
     'AutoProgHook needs an EpochBasedTrainLoop, but train_cfg builds IterBasedTrainLoop'),
    (dict(custom_hooks__2=dict(type='SwitchRecipeHook', schedule=[
        dict(action_epoch=3, batch_augments=None)])),
     r'SwitchRecipeHook of custom_hooks counts epochs of a run \(action_epoch\)'),
    (dict(custom_hooks__2=dict(type='WarmupParamHook', param_name='num_classes', module_name='head',
                               warmup_epochs=1)), r'WarmupParamHook .*\(warmup_epochs\)'),
    (dict(train_cfg__dynamic_intervals=[(3, 2)]), 'train_cfg.dynamic_intervals counts epochs of'),
    (dict(param_scheduler=[dict(type='ReduceOnPlateauLR', monitor='loss')]),
     'ReduceOnPlateauLR of param_scheduler waits for validations'),
])
def test_what_cannot_be_promised_is_refused_before_training(jpeg_root, tmp_path, options, message):
    hook = options.pop('custom_hooks__2', None)
    cfg = micro_config(jpeg_root, tmp_path, **{**SPEEDUP, **options})
    cfg.custom_hooks += [hook] * (hook is not None)
    with pytest.raises(UserError, match=message):
        run(cfg)


def test_measured_costs_are_kept_on_resume(jpeg_root, tmp_path, monkeypatch):
    options = dict(SPEEDUP, custom_hooks__0__budget='time', train_cfg__val_interval=1)
    # On a machine on which all steps take as long, so that no stage is cheap.
    monkeypatch.setattr(run_budget, 'time_training_steps', lambda parts, inputs, subnets, *_: {
        subnet: 3. for subnet in subnets})
    run_until(micro_config(jpeg_root, tmp_path / 'whole', **options), STEPS)
    monkeypatch.setattr(run_budget, 'time_training_steps', None)
    resumed_until(micro_config(jpeg_root, tmp_path / 'resumed', **options),
                  tmp_path / 'whole' / 'epoch_1.pth', 2 * STEPS)
    costs = load(tmp_path / 'resumed' / 'epoch_2.pth')['autoprog']['course']['costs']
    assert {cost for *_, cost in costs} == {1.}


def test_another_recipe_is_refused_on_resume(budgeted, jpeg_root, tmp_path):
    """For the values come from it at each step, and not from the checkpoint."""
    folder, *_ = budgeted
    checkpoint = sorted(folder.glob('epoch_*.pth'))[0]
    for options, name in ((dict(optim_wrapper__optimizer__lr=1e-2), 'groups.0.lr'),
                          (dict(param_scheduler__1__eta_min=1e-4), 'param_scheduler.1.eta_min')):
        with pytest.raises(UserError, match=f'another optimizer or param_scheduler: .*{name}'):
            resumed_until(micro_config(jpeg_root, tmp_path, **SPEEDUP, **options), checkpoint, 60)


def test_another_budget_is_refused_on_resume(jpeg_root, tmp_path):
    """Though stages may come out alike: those after a search would not."""
    whole, plain = ({**SPEEDUP, **EVERY_STEP, 'custom_hooks__0__speedup': speedup}
                    for speedup in (2., None))
    run_until(micro_config(jpeg_root, tmp_path / 'whole', **whole), 1)
    run_until(micro_config(jpeg_root, tmp_path / 'plain', **plain), 1)
    for start, search, options, message in (
            ('whole', None, dict(custom_hooks__0__speedup=2.001), r'speedup \(2.0 there, 2.001 h'),
            ('whole', None, dict(custom_hooks__0__stage_shares=[1., 1, 1, 1]), 'stage_shares'),
            ('whole', None, dict(custom_hooks__0__budget='time'), 'budget'),
            ('whole', None, dict(custom_hooks__0__speedup=None), 'speedup'),
            ('plain', None, {}, r'speedup \(nothing there, 2.0 here\)'),
            ('whole', SEARCH, dict(train_cfg__max_epochs=24), 'another schedule or search: .*2x24'),
    ):
        with pytest.raises(UserError, match=message):
            resumed_until(micro_config(jpeg_root, tmp_path / 'x', search, **{**whole, **options}),
                          tmp_path / start / 'iter_1.pth', 2)
