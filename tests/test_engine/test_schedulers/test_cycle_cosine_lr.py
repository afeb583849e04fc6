# Copyright (c) the autoprog_mm authors. All rights reserved.
"""CycleCosineLR against timm's scheduler, and by hand."""
import autoprog_mm  # noqa: F401  (before timm, which imports torchvision)

# isort: split
from math import cos, pi
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import PARAM_SCHEDULERS
from timm.scheduler import create_scheduler_v2

SCHEDULE = Path(__file__).parents[3] / 'configs/_base_/schedules/volo_100e.py'
STEPS = 10  # of an epoch


def optimizer(lr=1.6e-3):
    groups = [dict(params=[torch.nn.Parameter(torch.zeros(1))], lr=rate) for rate in (lr, lr / 4)]
    return torch.optim.AdamW(groups)


def played(schedulers, length, lr=1.6e-3, epoch_length=STEPS):
    """Rates of both groups at each epoch, or step, of a run."""
    ours = optimizer(lr)
    built = [PARAM_SCHEDULERS.build(cfg, default_args=dict(
        optimizer=ours, epoch_length=epoch_length)) for cfg in schedulers]
    rates = []
    for _ in range(length):
        rates.append([group['lr'] for group in ours.param_groups])
        ours.step()
        for scheduler in built:
            scheduler.step()
    return torch.tensor(rates, dtype=torch.float64)


def timms(epochs=100, warm_up=20, cooldown=10, step_on_epochs=True):
    """The same of timm's, as VOLO's and AutoProg's `main.py` have it built."""
    theirs = optimizer()
    scheduler, num_epochs = create_scheduler_v2(
        theirs, 'cosine', num_epochs=epochs, min_lr=1e-5, warmup_lr=1e-6, warmup_epochs=warm_up,
        cooldown_epochs=cooldown, step_on_epochs=step_on_epochs, updates_per_epoch=STEPS)
    rates = []
    for moment in range(num_epochs * (1 if step_on_epochs else STEPS)):
        (scheduler.step if step_on_epochs else scheduler.step_update)(moment)
        rates.append([group['lr'] for group in theirs.param_groups])
    return num_epochs, torch.tensor(rates, dtype=torch.float64)


def recipe():
    return Config.fromfile(SCHEDULE)


def test_volos_recipe_is_timms_at_each_epoch():
    cfg, (num_epochs, expected) = recipe(), timms()
    assert cfg.train_cfg.max_epochs == num_epochs == 110
    assert cfg.optim_wrapper.optimizer.lr == 1.6e-3
    rates = played(cfg.param_scheduler, 110 * STEPS)[::STEPS]
    torch.testing.assert_close(rates[20:], expected[20:], rtol=1e-12, atol=0)
    # mmengine's warm-up ends with its last step, timm's a step later.
    share = torch.arange(20, dtype=torch.float64)[:, None] * STEPS / (20 * STEPS - 1)
    first, full = 6.25e-4 * torch.tensor([1.6e-3, 4e-4]), torch.tensor([1.6e-3, 4e-4])
    torch.testing.assert_close(rates[:20], first + share * (full - first), rtol=1e-6, atol=0)
    torch.testing.assert_close(rates[:20, 0], expected[:20, 0], rtol=1 / (20 * STEPS - 1), atol=0)


def test_volos_recipe_is_timms_at_each_step():
    num_epochs, expected = timms(step_on_epochs=False)
    rates = played(recipe().param_scheduler, num_epochs * STEPS)
    torch.testing.assert_close(rates[20 * STEPS:], expected[20 * STEPS:], rtol=1e-12, atol=0)
    torch.testing.assert_close(
        rates[:20 * STEPS, 0], expected[:20 * STEPS, 0], rtol=1 / (20 * STEPS - 1), atol=0)


def test_by_epochs_it_is_the_authors_to_the_last_digit():
    warm_up, cosine = (dict(cfg, convert_to_iter_based=False) for cfg in recipe().param_scheduler)
    warm_up['end'] = 21  # whose last step is that of epoch 20
    _, expected = timms()
    rates = played([warm_up, cosine], 110, epoch_length=None)
    torch.testing.assert_close(rates[:, 0], expected[:, 0], rtol=1e-12, atol=0)
    torch.testing.assert_close(rates[20:], expected[20:], rtol=1e-12, atol=0)


def test_by_hand():
    cosine = dict(type='CycleCosineLR', eta_min=0.1, begin=2, end=8, cooldown=2)
    rates = played([cosine], 10, lr=1., epoch_length=None)
    fall = [0.1 + 0.9 * (1 + cos(pi * epoch / 6)) / 2 for epoch in (2, 3, 4, 5)]
    assert rates[:, 0].tolist() == pytest.approx([1, 1, *fall, 0.1, 0.1, 0.1, 0.1])
    assert fall[:2] == pytest.approx([0.1 + 0.9 * 0.75, 0.1 + 0.9 * 0.5])


def test_a_resume_goes_on_where_it_was():
    cosine = dict(type='CycleCosineLR', eta_min=1e-5, begin=1, end=9, cooldown=3)
    whole = played([cosine], 9, epoch_length=None)
    before, after = optimizer(), optimizer()
    old, new = (PARAM_SCHEDULERS.build(cosine, default_args=dict(optimizer=each))
                for each in (before, after))
    for _ in range(4):
        before.step()
        old.step()
    after.load_state_dict(before.state_dict())
    new.load_state_dict(old.state_dict())
    rates = []
    for _ in range(5):
        rates.append([group['lr'] for group in after.param_groups])
        after.step()
        new.step()
    assert rates == whole[4:].tolist()


@pytest.mark.parametrize('options, match', [
    (dict(end=20, begin=10, cooldown=10), r'between its begin \(10\) and its end \(20\) less'),
    (dict(end=20, cooldown=-1), 'cooldown of CycleCosineLR must .*, but got -1'),
])
def test_what_cannot_be(options, match):
    with pytest.raises(ValueError, match=match):
        PARAM_SCHEDULERS.build(dict(type='CycleCosineLR', **options), default_args=dict(
            optimizer=optimizer(), epoch_length=STEPS))
