# Copyright (c) the autoprog_mm authors. All rights reserved.
import argparse
import sys
import warnings
from types import SimpleNamespace

import pytest
from mmengine.runner import Runner

from autoprog_mm.engine import SafeCheckpointHook
from autoprog_mm.launch import build_runner, prepare_config
from tests.test_launch.prepared import TEST_ARGS, make_config, prepare


def test_speedup_is_a_setting_of_the_hook():
    hooks = [dict(type='MoGrowEMAHook'), dict(type='mmpretrain.AutoProgHook', num_stages=1)]
    assert prepare(make_config(custom_hooks=hooks), speedup=3.).custom_hooks[1].speedup == 3.
    with pytest.raises(ValueError, match='--speedup is a setting of AutoProgHook, which'):
        prepare(make_config(custom_hooks=hooks[:1]), speedup=3.)


@pytest.mark.usefixtures('device')
class TestArguments:

    def test_work_dir(self):
        assert prepare().work_dir == './work_dirs/deit-s_prog_in1k'
        assert prepare(make_config(work_dir='of_the_file')).work_dir == 'of_the_file'
        assert prepare(make_config(work_dir=None)).work_dir == './work_dirs/deit-s_prog_in1k'
        cfg = prepare(make_config(work_dir='of_the_file'), work_dir='of_the_command')
        assert cfg.work_dir == 'of_the_command'

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
class TestResume:
    """What --resume says is not in the config that the runner writes into its work directory."""

    hooks = ()

    @pytest.fixture(autouse=True)
    def runner(self, monkeypatch):
        monkeypatch.setattr(Runner, 'from_cfg', lambda cfg: SimpleNamespace(
            cfg=cfg, work_dir=cfg.work_dir, hooks=self.hooks, _resume=cfg.resume,
            _load_from=cfg.load_from))

    def build(self, tmp_path, resume):
        cfg = prepare(make_config(resume=False, load_from='pretrained.pth'), resume=resume,
                      work_dir=str(tmp_path))
        runner = build_runner(cfg, resume)
        assert runner.cfg.resume is False and runner.cfg.load_from == 'pretrained.pth'
        return runner._resume, runner._load_from

    def test_none(self, tmp_path):
        assert self.build(tmp_path, None) == (False, 'pretrained.pth')

    def test_newest(self, tmp_path):
        assert self.build(tmp_path, 'auto') == (False, 'pretrained.pth')  # the first start
        (tmp_path / 'last_checkpoint').write_text('epoch_1.pth')
        assert self.build(tmp_path, 'auto') == (True, None)

    def test_hook_that_knows_its_checkpoints(self, tmp_path):
        """They may be in another folder, its out_dir; a first start is its business, too."""
        self.hooks = [SafeCheckpointHook(out_dir='elsewhere')]
        assert self.build(tmp_path, 'auto') == (True, None)

    def test_path(self, tmp_path):
        assert self.build(tmp_path, 'x/epoch_3.pth') == (True, 'x/epoch_3.pth')


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
        assert not cfg.train_dataloader.get('persistent_workers')
        assert cfg.test_dataloader.persistent_workers is True
        kept = make_config()
        kept.train_dataloader.persistent_workers = True
        cfg = prepare(kept, cfg_options={'train_dataloader.num_workers': 0})
        assert cfg.train_dataloader.persistent_workers is False


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

    def test_parts_that_are_switched_off(self):
        """Options of a validation that --no-validate leaves out are of no use, but no mistake."""
        cfg = prepare(no_validate=True, cfg_options={'val_dataloader.batch_size': 4})
        assert cfg.val_cfg is None and cfg.val_dataloader is None and cfg.val_evaluator is None

    def test_imports_of_the_command_line(self, tmp_path, monkeypatch):
        (tmp_path / 'imported_by_option.py').touch()
        monkeypatch.syspath_prepend(tmp_path)
        prepare(cfg_options={'custom_imports.imports': 'imported_by_option'})
        assert 'imported_by_option' in sys.modules
        with pytest.raises(ValueError, match='--cfg-options: .*no_such_module'):
            prepare(cfg_options={'custom_imports.imports': ['no_such_module']})


@pytest.mark.usefixtures('device')
@pytest.mark.parametrize('changes', [
    dict(runner_type='FlexibleRunner'), dict(runner_type='Runer'),
    dict(strategy=dict(type='DeepSpeedStrategy'))])
def test_runner_that_knows_nothing_of_growth(changes):
    with pytest.raises(ValueError, match='runner_type .* must be a Runner, and strategy must not'):
        prepare(make_config(**changes))


@pytest.mark.usefixtures('device')
class TestSchedule:

    @pytest.mark.parametrize('kind, end, warned', [
        ('CosineAnnealingLR', 3, False), ('CosineAnnealingLR', 100, True), ('PolyLR', 2, True),
        ('CycleCosineLR', 110, True), ('LinearLR', 1, False)])
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
