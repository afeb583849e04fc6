# Copyright (c) the autoprog_mm authors. All rights reserved.
import argparse
import warnings

import pytest

from autoprog_mm.launch import prepare_config, read_config
from tests.test_launch.prepared import TEST_ARGS, make_config, prepare


@pytest.mark.usefixtures('device')
class TestArguments:

    def test_work_dir(self):
        assert prepare().work_dir == './work_dirs/deit-s_prog_in1k'
        assert prepare(make_config(work_dir='of_the_file')).work_dir == 'of_the_file'
        assert prepare(make_config(work_dir=None)).work_dir == './work_dirs/deit-s_prog_in1k'
        cfg = prepare(make_config(work_dir='of_the_file'), work_dir='of_the_command')
        assert cfg.work_dir == 'of_the_command'

    def test_resume(self, tmp_path):
        cfg = prepare(make_config(resume=False, load_from='pretrained.pth'))
        assert cfg.resume is False and cfg.load_from == 'pretrained.pth'
        work_dir = str(tmp_path)
        weights = make_config(resume=False, load_from='pretrained.pth')
        cfg = prepare(weights, resume='auto', work_dir=work_dir)
        assert cfg.resume is False and cfg.load_from == 'pretrained.pth'  # the first start
        (tmp_path / 'epoch_1.pth').touch()
        cfg = prepare(weights, resume='auto', work_dir=work_dir)
        assert cfg.resume is True and cfg.load_from is None
        cfg = prepare(resume='work_dirs/epoch_3.pth')
        assert cfg.resume is True and cfg.load_from == 'work_dirs/epoch_3.pth'

    def test_no_validate(self):
        cfg = prepare(no_validate=True)
        assert cfg.val_cfg is None and cfg.val_dataloader is None and cfg.val_evaluator is None
        assert cfg.test_dataloader is not None
        assert prepare().val_evaluator == dict(type='Accuracy')

    def test_auto_scale_lr(self):
        cfg = prepare(make_config(auto_scale_lr=dict(base_batch_size=8)), auto_scale_lr=True)
        assert cfg.auto_scale_lr == dict(base_batch_size=8, enable=True)
        with pytest.raises(ValueError, match='--auto-scale-lr needs auto_scale_lr=dict'):
            prepare(auto_scale_lr=True)

    def test_arguments_of_the_test_tool(self):
        cfg = make_config(optim_wrapper=None, train_dataloader=None)
        args = argparse.Namespace(**{**TEST_ARGS, 'amp': True, 'launcher': 'slurm'})
        assert prepare_config(cfg, args) is cfg
        assert cfg.launcher == 'slurm'
        assert cfg.train_dataloader is None
        assert cfg.test_dataloader.pin_memory is True


@pytest.mark.usefixtures('device')
class TestDataloaders:

    def test_defaults(self):
        cfg = prepare()
        assert cfg.train_dataloader == dict(
            pin_memory=True,
            collate_fn=dict(type='default_collate'),
            persistent_workers=True,
            batch_size=2,
            num_workers=4,
            dataset=dict(type='MNIST5k'))
        # Without workers, torch refuses persistent ones.
        assert 'persistent_workers' not in cfg.val_dataloader
        assert cfg.test_dataloader.persistent_workers is True

    def test_config_has_priority_over_defaults(self):
        mine = dict(batch_size=2, num_workers=4, pin_memory=False, persistent_workers=False,
                    collate_fn=dict(type='pseudo_collate'))
        assert prepare(make_config(train_dataloader=mine)).train_dataloader == mine

    def test_flags(self):
        cfg = prepare(no_pin_memory=True, no_persistent_workers=True)
        for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            assert cfg[name].pin_memory is False
            assert cfg[name].persistent_workers is False

    def test_workers_switched_off_by_options(self):
        cfg = prepare(cfg_options={'train_dataloader.num_workers': 0})
        assert cfg.train_dataloader.num_workers == 0
        assert cfg.train_dataloader.persistent_workers is False
        assert cfg.test_dataloader.persistent_workers is True


@pytest.mark.usefixtures('device')
class TestOptions:

    def test_merge(self):
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            cfg = prepare(
                make_config(custom_hooks=[dict(type='AutoProgHook', search=dict(epochs=2))]),
                cfg_options={'train_cfg.max_epochs': 9, 'custom_hooks.0.search.epochs': 1})
        assert cfg.train_cfg.max_epochs == 9
        assert cfg.custom_hooks[0].search.epochs == 1

    def test_unknown_key_warns(self):
        with pytest.warns(UserWarning, match='no key "trian_cfg" yet.*check its spelling'):
            cfg = prepare(cfg_options={'trian_cfg.max_epochs': 9})
        assert cfg.trian_cfg.max_epochs == 9
        assert cfg.train_cfg.max_epochs == 3


@pytest.mark.usefixtures('device')
class TestSchedule:

    @pytest.mark.parametrize('kind, end, warned', [
        ('CosineAnnealingLR', 3, False), ('CosineAnnealingLR', 100, True), ('PolyLR', 2, True),
        ('LinearLR', 1, False)])
    def test_learning_rate_of_other_epochs_warns(self, log, kind, end, warned):
        schedulers = [dict(type='LinearLR', end=1), dict(type=kind, begin=1, end=end)]
        prepare(make_config(param_scheduler=schedulers))
        assert len(log) == warned
        if warned:
            assert f'falls until epoch {end}. Set param_scheduler.1.end=3' in log[0]

    @pytest.mark.parametrize('end, text', [
        (5, 'until epoch 5'), (None, 'for ever'), (3, None), (1, None)])
    def test_warm_up_that_does_not_end_warns(self, log, end, text):
        scheduler = dict(type='LinearLR', start_factor=0.1)
        prepare(make_config(param_scheduler=scheduler if end is None else dict(
            scheduler, end=end)))
        assert len(log) == (text is not None)
        if text:
            assert (f'train_cfg.max_epochs is 3, but the learning rate warms up {text}: it does '
                    'not come to its full value. Set param_scheduler.end') in log[0]

    def test_steps_are_not_epochs(self, log):
        prepare(make_config(param_scheduler=[dict(type='PolyLR', end=1000, by_epoch=False)]))
        prepare(make_config(param_scheduler=dict(type='PolyLR', end=3)))
        prepare(make_config(param_scheduler=None))
        assert log == []


@pytest.mark.parametrize('text, reason', [
    ("_base_ = './gone.py'", r'No such file .*gone\.py'), ('a = 1\nb = (', 'never closed.*line 2')])
def test_config_that_cannot_be_read(tmp_path, text, reason):
    path = tmp_path / 'mine.py'
    with pytest.raises(ValueError, match="^config: there is no file '.*mine.py'"):
        read_config(str(path))
    path.write_text(text)
    with pytest.raises(ValueError, match=f"^config: '.*mine.py' cannot be read: .*{reason}"):
        read_config(str(path))
