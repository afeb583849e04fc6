# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Resuming with other settings: refused, said, or free."""
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from autoprog_mm.engine import MoGrowOptimWrapper, run_settings
from autoprog_mm.utils import UserError
from tests.micro import STEPS, load, micro_config, resume
from tests.test_engine.resuming import assert_same_state, resumed_until, run_until

PIPELINE = 'train_dataloader__dataset__pipeline'


@pytest.fixture(scope='module')
def trained(jpeg_root, tmp_path_factory):
    """Folder of the first three epochs of a run."""
    folder = tmp_path_factory.mktemp('trained')
    run_until(micro_config(jpeg_root, folder), 3 * STEPS)
    return folder


def change(cfg, options):
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in options.items()})
    return cfg


# Option, its value, and what is said of it. In the checkpoint they are those of micro_config.
MIXING = {
    'optimizer': (
        'optim_wrapper__optimizer', dict(_delete_=True, type='SGD', lr=3e-3, weight_decay=0.05),
        r"optim_wrapper\.optimizer \('AdamW' there, 'SGD' here\)"),
    'optimizer of the same numbers': (
        'optim_wrapper__optimizer__type', 'Adam', r"optimizer \('AdamW' there, 'Adam' here\)"),
    'groups': ('optim_wrapper__paramwise_cfg', None,
               r"parameters of the optimizer's groups \(\[1, 1, .*there, \[\d+\] here\)"),
    'clipping': ('optim_wrapper__clip_grad__max_norm', 1.,
                 r'optim_wrapper\.clip_grad\.max_norm \(5\.0 there, 1\.0 here\)'),
    'growth': ('optim_wrapper__growth', dict(type='IdentityInit'),
               r"optim_wrapper\.growth\.type \('MoGrow' there, 'IdentityInit' here\)"),
    'moments at growth': ('optim_wrapper__optimizer_state', 'reset', r"\('keep' there, 'reset'"),
    'accumulation': ('optim_wrapper__accumulative_counts', 2,
                     r'images_of_an_update \(8 there, 16 here\)'),
    'scheduler': ('param_scheduler__1__type', 'LinearLR',
                  r"param_scheduler\.1 \('CosineAnnealingLR' there, 'LinearLR' here\)"),
    'number of schedulers': (
        'param_scheduler', [dict(type='ConstantLR', factor=1.)],
        r"param_scheduler \(\['LinearLR', 'CosineAnnealingLR'\] there, \['ConstantLR'\] here\)"),
    'drop path': ('model__backbone__drop_path_rate', 0.2,
                  r'model\.backbone\.drop_path_rate \(0\.1 there, 0\.2 here\)'),
    'loss': ('model__head__loss__label_smooth_val', 0.,
             r'model\.head\.loss\.label_smooth_val \(0\.1 there, 0\.0 here\)'),
    'mixing': ('model__train_cfg', None, r'model\.train_cfg\b.*here\)'),
    'pixels': ('model__data_preprocessor__mean', [100.] * 3,
               r'model\.data_preprocessor\.mean\.0 \(110\.0 there, 100\.0 here\)'),
    'augmentation': (f'{PIPELINE}__3__magnitude_level', 5,
                     r'pipeline\.3\.magnitude_level \(9 there, 5 here\)'),
    'order of samples': ('train_dataloader__sampler__shuffle', False,
                         r'train_dataloader\.sampler\.shuffle \(True there, False here\)'),
    'samples': ('train_dataloader__dataset__split', 'val', r'samples \(48 there, 16 here\)'),
    'strengths': ('custom_hooks__0__regularization', dict(drop_path=0.5),
                  'other strengths of regularization in its stages.*Resume with the same'),
}


@pytest.mark.parametrize('name', MIXING)
def test_two_runs_are_not_mixed(trained, jpeg_root, tmp_path, name):
    key, value, match = MIXING[name]
    cfg = micro_config(jpeg_root, tmp_path)
    if name == 'scheduler':
        cfg.param_scheduler[1] = dict(type='LinearLR', begin=1, end=8, convert_to_iter_based=True)
    else:
        change(cfg, {key: value})
    with pytest.raises(UserError, match=match):
        resume(cfg, trained / 'epoch_2.pth')


def test_what_the_checkpoint_decides_is_said(trained, jpeg_root, tmp_path):
    cfg = change(micro_config(jpeg_root, tmp_path), dict(
        optim_wrapper__optimizer__lr=6e-3, optim_wrapper__optimizer__weight_decay=0.1,
        optim_wrapper__optimizer__betas=(0.9, 0.99), param_scheduler__1__eta_min=1e-4))
    resumed_until(cfg, trained / 'epoch_2.pth', 3 * STEPS)
    said, = (line for line in log_of(tmp_path) if 'taken from the checkpoint' in line)
    head, _, names = said.partition('and are not as the config has them: ')
    assert sorted(names.removesuffix(').').split('), ')) == [
        'optimizer.betas.1 (0.999 there, 0.99 here', 'optimizer.lr (0.003 there, 0.006 here',
        'optimizer.weight_decay (0.05 there, 0.1 here',
        'param_scheduler.1.eta_min (1e-05 there, 0.0001 here']
    # And they are the checkpoint's.
    assert_same_state(trained / 'epoch_3.pth', tmp_path / 'epoch_3.pth')


def test_what_is_free_is_not_talked_about(trained, jpeg_root, tmp_path):
    cfg = change(micro_config(jpeg_root, tmp_path), dict(
        model__backbone__type='mmpretrain.ElasticDeiT',
        train_dataloader__num_workers=1, train_dataloader__persistent_workers=False,
        default_hooks__logger__interval=1, train_cfg__val_interval=2,
        model__head__topk=(1, 2), optim_wrapper__optimizer__foreach=False))
    cfg.custom_hooks.append(dict(type='MicroBatchHook', max_batch_per_step=4))
    resumed_until(cfg, trained / 'epoch_2.pth', 2 * STEPS + 1)
    assert not any(' there, ' in line for line in log_of(tmp_path))


@pytest.mark.parametrize('scheduler', [
    dict(type='CosineAnnealingMomentum', T_max=8, eta_min=0.85, convert_to_iter_based=True),
    dict(type='OneCycleLR', eta_max=0.01, total_steps=48, by_epoch=False),
], ids=lambda scheduler: scheduler['type'])
def test_schedulers_go_on_where_they_were(jpeg_root, tmp_path, scheduler):
    """Also those of which a part is a function, or which change betas."""
    cfg = micro_config(jpeg_root, tmp_path / 'whole')
    cfg.param_scheduler = [scheduler]
    run_until(cfg, 2 * STEPS)
    cfg.work_dir = str(tmp_path / 'resumed')
    resumed_until(cfg, tmp_path / 'whole' / 'epoch_1.pth', 2 * STEPS)
    assert_same_state(*(tmp_path / name / 'epoch_2.pth' for name in ('whole', 'resumed')))
    lines = log_of(tmp_path / 'whole') + log_of(tmp_path / 'resumed')
    assert not any(' there, ' in line or 'Left out' in line for line in lines)


def test_data_that_have_moved(trained, jpeg_root, tmp_path):
    (tmp_path / 'moved').symlink_to(jpeg_root)
    cfg = micro_config(tmp_path / 'moved', tmp_path / 'run')
    state = load(trained / 'epoch_2.pth')
    loading = state['autoprog']['settings']['train_dataloader']['dataset']['pipeline'][0]
    loading['image_root'] = '/before'  # of label maps, if there are some
    torch.save(state, tmp_path / 'epoch_2.pth')
    resumed_until(cfg, tmp_path / 'epoch_2.pth', 3 * STEPS)
    said, = (line for line in log_of(tmp_path / 'run') if ' there, ' in line)
    assert 'are used: train_dataloader.dataset.data_root (' in said
    assert "pipeline.0.image_root ('/before' there, nothing here)" in said
    assert_same_place(trained / 'epoch_3.pth', tmp_path / 'run' / 'epoch_3.pth')


def assert_same_place(expected, got):
    expected, got = load(expected), load(got)
    assert all(torch.equal(value, got['state_dict'][name])
               for name, value in expected['state_dict'].items())


def test_classes_of_another_order(trained, jpeg_root, tmp_path):
    state = load(trained / 'epoch_2.pth')
    classes = list(state['meta']['dataset_meta']['classes'])
    state['meta']['dataset_meta']['classes'] = [*classes[:2], classes[3], classes[2], *classes[4:]]
    torch.save(state, tmp_path / 'epoch_2.pth')
    with pytest.raises(UserError, match=f'class 2 \\({classes[3]!r} there, '):
        resume(micro_config(jpeg_root, tmp_path), tmp_path / 'epoch_2.pth')


def test_checkpoints_of_before(trained, jpeg_root, tmp_path):
    """They have no settings, and are resumed as they were."""
    state = load(trained / 'epoch_2.pth')
    del state['autoprog']['settings'], state['autoprog']['regularization']
    torch.save(state, tmp_path / 'epoch_2.pth')
    resumed_until(micro_config(jpeg_root, tmp_path / 'run'), tmp_path / 'epoch_2.pth', 3 * STEPS)
    assert_same_state(trained / 'epoch_3.pth', tmp_path / 'run' / 'epoch_3.pth')


@pytest.mark.parametrize('counts, size, processes, images', [
    (1, 8, 2, 16), (2, 4, 2, 16), (1, 4, 4, 16), (1, 8, 4, 32)])
def test_the_batch_of_an_update_counts(monkeypatch, counts, size, processes, images):
    """A process's step, processes and accumulation may share it in any way."""
    monkeypatch.setattr(run_settings, 'get_world_size', lambda: processes)
    model = torch.nn.Linear(1, 1)
    runner = SimpleNamespace(
        cfg=dict(train_dataloader=dict(batch_size=size)), param_schedulers=None,
        train_dataloader=DataLoader(range(48), batch_size=size),
        optim_wrapper=MoGrowOptimWrapper(
            torch.optim.SGD(model.parameters(), lr=1.), accumulative_counts=counts))
    settings = run_settings.run_settings(runner)
    assert settings['images_of_an_update'] == images
    assert settings['train_dataloader'] == {}


@pytest.mark.parametrize('key, value, said', [
    ('model__backbone__drop_path_rate', 0.3,
     r'model\.backbone\.drop_path_rate \(0\.1 there, 0\.3 here\)'),
    ('optim_wrapper__optimizer__lr', 6e-3, r'optimizer\.lr \(0\.003 there, 0\.006 here\)\. '),
    ('param_scheduler__1__eta_min', 1e-4,
     r'param_scheduler\.1\.eta_min \(1e-05 there, 0\.0001 here\)'),
    ('train_dataloader__dataset__data_root', None, None),
    ('train_dataloader__num_workers', 1, None)])
def test_ranks_with_other_settings(jpeg_root, tmp_path, monkeypatch, key, value, said):
    """Given to one process only; the second rank's are those of another runner here."""
    gathered = []
    monkeypatch.setattr(run_settings, 'all_gather_object',
                        lambda mine: gathered.append(mine) or list(gathered))
    (tmp_path / 'mount').symlink_to(jpeg_root)
    for number, options in enumerate(({}, {key: value or str(tmp_path / 'mount')})):
        runner = Runner.from_cfg(micro_config(jpeg_root, tmp_path / str(number), **options))
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        runner._train_loop = runner.build_train_loop(runner._train_loop)
        runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
        with nullcontext() if said is None or number == 0 else pytest.raises(
                UserError, match=rf'Rank 1 \(here\) has other settings.*: {said}'):
            run_settings.check_ranks_share(runner)
    assert len(gathered) == 2


def log_of(folder):
    return [line for path in sorted(folder.glob('*/*.log')) for line in
            path.read_text().splitlines()]
