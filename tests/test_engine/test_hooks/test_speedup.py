# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Runs that cost a given part of what their recipe would."""
import pytest
from mmengine.hooks import Hook

from autoprog_mm.utils import UserError
from tests.micro import STEPS, micro_config, read_record, run
from tests.test_engine.resuming import (
    EVERY_STEP,
    SEARCHES,
    assert_same_state,
    resumed_until,
    run_until,
)

# Multiply-adds of a step at 2x16, 3x24 and 4x32 are in the ratio of costs below;
# of 8 epochs of the recipe at a speed-up of 2, each stage gets one.
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
    """And goes on after its decision as if it had never stopped."""
    note = Note()
    cfg = micro_config(jpeg_root, tmp_path / 'whole', SEARCH, **SPEEDUP,
                       train_cfg__max_epochs=40)
    runner = run(cfg, note)
    backbone, hook = runner.model.backbone, runner.hooks[0]
    hook = next(h for h in runner.hooks if hasattr(h, 'course'))
    spent = sum(backbone.flops(subnet) for subnet in note.subnets) / STEPS
    full = backbone.flops(backbone.full_subnet)
    work = sum(
        (1 + len(search['candidates'][0]['losses'])) * 0 for search in ())
    assert work == 0
    # Supernet steps are drawn, so that they cost their mean but by luck.
    assert spent / full == pytest.approx(hook.course.plan.budget, rel=0.1)
    record = read_record(tmp_path / 'whole')
    decided = [stage for stage in record['stages'] if stage['search']]
    assert decided
    epoch = decided[0]['begin_epoch'] + 1
    resumed_until(micro_config(jpeg_root, tmp_path / 'resumed', SEARCH, **SPEEDUP,
                               train_cfg__max_epochs=40),
                  tmp_path / 'whole' / f'epoch_{epoch}.pth', (epoch + 1) * STEPS)


@pytest.mark.parametrize('options, message', [
    (dict(custom_hooks__0__speedup=50.), r'speedup=50 of AutoProgHook leaves too little'),
    (dict(train_cfg=dict(_delete_=True, by_epoch=True, max_epochs=8)),
     r"needs train_cfg.type='ResumableTrainLoop'"),
    (dict(train_cfg__dynamic_intervals=[(3, 2)]), 'train_cfg.dynamic_intervals counts epochs of'),
    (dict(param_scheduler=[dict(type='ReduceOnPlateauLR', monitor='loss')]),
     'ReduceOnPlateauLR of param_scheduler waits for validations'),
])
def test_what_cannot_be_promised_is_refused_before_training(jpeg_root, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        run(micro_config(jpeg_root, tmp_path, **{**SPEEDUP, **options}))


def test_measured_budgets_are_kept_on_resume(jpeg_root, tmp_path):
    """Costs are measured once: those of the checkpoint hold."""
    options = dict(SPEEDUP, custom_hooks__0__budget='time')
    runs = []
    cfg = micro_config(jpeg_root, tmp_path / 'whole', **options)
    run_until(cfg, 2 * STEPS)
    for name, begin in (('a', 'whole'), ):
        checkpoint = sorted((tmp_path / begin).glob('epoch_*.pth'))[0]
        runs.append(checkpoint)
        resumed_until(micro_config(jpeg_root, tmp_path / name, **options), checkpoint, 3 * STEPS)
