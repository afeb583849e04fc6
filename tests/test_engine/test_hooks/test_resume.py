# Copyright (c) the autoprog_mm authors. All rights reserved.
"""A run that was stopped and resumed ends as one that was never stopped."""
import pytest
import torch

from autoprog_mm.utils import UserError
from tests.micro import STEPS, differences, load, micro_config, read_record, resume
from tests.test_engine.resuming import (
    SEARCH,
    assert_same_state,
    resumed_until,
    run_until,
    without_clocks,
)


@pytest.mark.parametrize('epoch', [1, 2, 3, 5, 7])
def test_resume_is_exact_one_epoch_later(every_epoch, jpeg_root, tmp_path, epoch):
    """In a stage, at its end, where it grows, in the last stage."""
    resumed_until(micro_config(jpeg_root, tmp_path), every_epoch / f'epoch_{epoch}.pth',
                  (epoch + 1) * STEPS)
    assert_same_state(
        every_epoch / f'epoch_{epoch + 1}.pth', tmp_path / f'epoch_{epoch + 1}.pth')


def test_resume_from_before_there_were_budgets(every_epoch, jpeg_root, tmp_path):
    """State of schema 3, which had no course and no settings."""
    checkpoint = torch.load(every_epoch / 'epoch_3.pth', weights_only=True)
    for key in ('course', 'settings', 'regularization'):
        del checkpoint['autoprog'][key]
    checkpoint['autoprog']['schema'] = 3
    torch.save(checkpoint, tmp_path / 'older.pth')
    cfg = micro_config(jpeg_root, tmp_path / 'run')
    resumed_until(cfg, tmp_path / 'older.pth', 4 * STEPS)
    assert_same_state(every_epoch / 'epoch_4.pth', tmp_path / 'run' / 'epoch_4.pth')
    assert load(tmp_path / 'run' / 'epoch_4.pth')['autoprog']['schema'] == 4
    # A budget is of a run from its beginning.
    with pytest.raises(UserError, match='another budget of AutoProgHook: speedup'):
        resumed_until(micro_config(
            jpeg_root, tmp_path / 'other', custom_hooks__0__speedup=2.,
            custom_hooks__0__budget='flops'), tmp_path / 'older.pth', 4 * STEPS)


def test_resume_to_the_end(every_epoch, jpeg_root, tmp_path):
    resume(micro_config(jpeg_root, tmp_path), every_epoch / 'epoch_3.pth')
    assert_same_state(every_epoch / 'epoch_8.pth', tmp_path / 'epoch_8.pth')
    assert without_clocks(read_record(tmp_path)) == without_clocks(read_record(every_epoch))


@pytest.fixture(scope='module')
def searched(jpeg_root, tmp_path_factory):
    """Folder of the first two epochs of a run with a search, without workers."""
    folder = tmp_path_factory.mktemp('searched')
    run_until(micro_config(jpeg_root, folder, SEARCH), 2 * STEPS)
    return folder


def test_workers_make_no_difference(searched, jpeg_root, tmp_path):
    """With persistent ones, through a search and its decision."""
    run_until(micro_config(jpeg_root, tmp_path, SEARCH, workers=2), 2 * STEPS)
    assert_same_state(searched / 'epoch_2.pth', tmp_path / 'epoch_2.pth')


def test_another_seed_makes_a_difference(searched, jpeg_root, tmp_path):
    run_until(micro_config(jpeg_root, tmp_path, SEARCH, randomness__seed=8), STEPS)
    assert differences(load(searched / 'epoch_1.pth')['state_dict'],
                       load(tmp_path / 'epoch_1.pth')['state_dict'])


def test_an_open_seed_is_taken_up_again(jpeg_root, tmp_path):
    cfg = micro_config(jpeg_root, tmp_path / 'whole', randomness__seed=None)
    run_until(cfg, 3 * STEPS)
    cfg.work_dir = str(tmp_path / 'resumed')
    resumed_until(cfg, tmp_path / 'whole' / 'epoch_2.pth', 3 * STEPS)
    assert_same_state(*(tmp_path / name / 'epoch_3.pth' for name in ('whole', 'resumed')))


def test_config_text_of_a_checkpoint_is_not_run(every_epoch, jpeg_root, tmp_path):
    """mmengine's resume would execute meta.config, as its `gpu_ids` of old were in there."""
    state = load(every_epoch / 'epoch_3.pth')
    trap = tmp_path / 'trapped'
    for key in ('config', 'cfg'):
        state['meta'][key] = f'open({str(trap)!r}, "w").close()\ngpu_ids = [0]\n'
    torch.save(state, tmp_path / 'epoch_3.pth')
    resumed_until(micro_config(jpeg_root, tmp_path / 'run'), tmp_path / 'epoch_3.pth', 4 * STEPS)
    assert not trap.exists()
    assert_same_state(every_epoch / 'epoch_4.pth', tmp_path / 'run' / 'epoch_4.pth')


def test_gradients_do_not_cross_epochs(jpeg_root, tmp_path):
    """Six steps an epoch and an update every four: two steps' gradients are left over."""
    cfg = micro_config(jpeg_root, tmp_path / 'whole', optim_wrapper__accumulative_counts=4)
    run_until(cfg, 2 * STEPS)
    cfg.work_dir = str(tmp_path / 'resumed')
    resumed_until(cfg, tmp_path / 'whole' / 'epoch_1.pth', 2 * STEPS)
    assert_same_state(*(tmp_path / name / 'epoch_2.pth' for name in ('whole', 'resumed')))


def refused(cfg, checkpoint, match):
    with pytest.raises(UserError, match=match):
        resume(cfg, checkpoint)


def test_another_schedule_is_refused(every_epoch, jpeg_root, tmp_path):
    refused(micro_config(jpeg_root, tmp_path, train_cfg__max_epochs=4),
            every_epoch / 'epoch_2.pth', r'another schedule.*\[0, 2, 2, 16\].*\[0, 1, 2, 16\]')


def test_a_search_is_refused_where_there_was_none(every_epoch, jpeg_root, tmp_path):
    refused(micro_config(jpeg_root, tmp_path, SEARCH), every_epoch / 'epoch_2.pth',
            'made without a search')


@pytest.mark.parametrize('key, value', [
    ('epochs', 2), ('eval_batches', 1), ('evals', [1, 1]), ('cost', 'time'),
    ('rule', 'compute')])
def test_a_search_of_other_settings_is_refused(searched, key, value):
    from autoprog_mm.growth import OneShotSearch
    state = load(searched / 'epoch_1.pth')['autoprog']['search']
    settings = {name: setting for name, setting in SEARCH.items() if name != 'type'}
    OneShotSearch(**settings).load_state_dict(state)
    state['settings'][key] = value
    with pytest.raises(UserError, match=f"search=.*'{key}'.*set the same"):
        OneShotSearch(**settings).load_state_dict(state)


def test_a_search_by_the_older_rule_is_refused(searched, jpeg_root, tmp_path):
    state = load(searched / 'epoch_1.pth')
    state['autoprog']['search']['settings'].update(
        max_lag=None, first_stage=0, reduction='mean', min_w=0.)
    torch.save(state, tmp_path / 'older.pth')
    refused(micro_config(jpeg_root, tmp_path, SEARCH), tmp_path / 'older.pth',
            'of an older search, which .* cannot go on by these. Resume with the version that')


def spoiled(every_epoch, path, spoil):
    state = load(every_epoch / 'epoch_2.pth')
    spoil(state)
    torch.save(state, path)
    return path


@pytest.mark.parametrize('spoil, match', [
    (lambda state: state.pop('autoprog'), 'without AutoProgHook.*load_from'),
    (lambda state: state['autoprog'].update(schema=1), 'of schema 1; this version reads schema 4'),
])
def test_a_state_of_others_is_refused(every_epoch, jpeg_root, tmp_path, spoil, match):
    refused(micro_config(jpeg_root, tmp_path), spoiled(every_epoch, tmp_path / 'x.pth', spoil),
            match)


def test_best_checkpoints_are_refused(every_epoch, jpeg_root, tmp_path):
    best, = every_epoch.glob('best_*.pth')
    refused(micro_config(jpeg_root, tmp_path), best, 'no optimizer.*best checkpoints.*load_from')


@pytest.mark.parametrize('options, match', [
    (dict(model__backbone__arch__feedforward_channels=48),
     r'of another model, a ElasticDeiT: .*is of shape \(32, 16\) instead of \(48, 16\)'),
    (dict(model__backbone__layer_scale_init_value=1e-5),
     'of another model.*gamma1.weight is missing'),
    (dict(train_dataloader__batch_size=16),
     r'mix two runs: images_of_an_update \(8 there, 16 here\)'),
])
def test_another_model_or_batch_is_refused(every_epoch, jpeg_root, tmp_path, options, match):
    refused(micro_config(jpeg_root, tmp_path, **options), every_epoch / 'epoch_2.pth', match)


def test_comparison_sees_a_difference(every_epoch, tmp_path):
    def change(state):
        state['optimizer']['momentum']['copies'][0]['head.layers.head.bias'][0] += 1e-6

    path = spoiled(every_epoch, tmp_path / 'changed.pth', change)
    with pytest.raises(AssertionError):
        assert_same_state(every_epoch / 'epoch_2.pth', path)
