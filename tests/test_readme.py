# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What the README says is there, and its config trains."""
import argparse
import re
from pathlib import Path

from mmengine.config import Config
from mmengine.hooks import Hook

from autoprog_mm.launch import prepare_config
from autoprog_mm.registry import GROWTH_OPERATORS
from tests.micro import run

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text(encoding='utf-8')


def mentioned_paths():
    paths = set(re.findall(r'(?<![\w/])((?:autoprog_mm|configs|tools|tests)/[\w./-]*\w/?)', README))
    return sorted(path for path in paths if '{' not in path and '*' not in path)


def test_paths_exist():
    paths = mentioned_paths()
    assert 'configs/autoprog/deit-s_in1k.py' in paths and 'tools/train.py' in paths
    missing = [path for path in paths if not (ROOT / path).exists()
               # Of a group such as configs/{autoprog,prog}/ or deit-micro*.
               and not list(ROOT.glob(f'{path}*'))]
    assert missing == []


def test_make_targets_exist():
    makefile = (ROOT / 'Makefile').read_text()
    for target in set(re.findall(r'^make (\w+)', README, re.M)):
        assert re.search(rf'^{target}:', makefile, re.M), target


def test_growth_operators_are_the_registered_ones():
    sentence = README[README.index("wrapper's `growth=dict(type=...)`"):]
    sentence = sentence[:sentence.index('\n\n')]
    assert set(re.findall(r'`(\w+)`', sentence)) == set(GROWTH_OPERATORS.module_dict)


class StopAfterOneEpoch(Hook):

    def after_train_epoch(self, runner):
        runner.train_loop.stop_training = True


def test_four_changes_make_a_stock_config_grow(jpeg_root, tmp_path):
    changes = re.search(r'```python\n(custom_imports.*?)```', README, re.S)[1]
    path = tmp_path / 'mine.py'
    path.write_text(f"_base_ = 'mmpretrain::deit/deit-tiny_4xb256_in1k.py'\n{changes}")
    cfg = prepare_config(
        Config.fromfile(path),
        argparse.Namespace(
            config=str(path), work_dir=str(tmp_path), launcher='none', resume=None, amp=False,
            no_validate=True, auto_scale_lr=False, no_pin_memory=True,
            no_persistent_workers=True, cfg_options={
                'train_dataloader.batch_size': 2,
                'train_dataloader.num_workers': 0,
                'train_dataloader.dataset.data_root': str(jpeg_root),
                'train_dataloader.dataset.indices': 4,
                'custom_hooks.0.search.eval_batches': 1,
            }))
    runner = run(cfg, StopAfterOneEpoch())
    assert runner.iter == 2
    assert type(runner.model.backbone).__name__ == 'ElasticDeiT'
    assert (tmp_path / 'autoprog.json').exists()
