# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Every config is built and trained two steps."""
import argparse
import time
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.hooks import Hook

from autoprog_mm import Subnet
from autoprog_mm.launch.prepare import prepare_config
from tests.micro import run, write_label_maps

ROOT = Path(__file__).parents[1] / 'configs'
CONFIGS = sorted(
    str(path.relative_to(ROOT)) for path in ROOT.rglob('*.py')
    if not {'_base_', 'experiments'} & set(path.relative_to(ROOT).parts))

# What the first stage runs (with a search: all that is awake), and the epochs
# at which stages begin, by hand.
FIRST = {
    'autoprog/deit-b_in1k.py': (Subnet(12, 224), [0, 25, 50, 75]),
    'autoprog/deit-micro_mnist5k.py': (Subnet(6, 32), [0, 8, 16]),
    'autoprog/deit-s_0.4_in1k.py': (Subnet(12, 224), [0, 25, 50, 75]),
    'autoprog/deit-s_300e_in1k.py': (Subnet(12, 224), [0, 75, 150, 225]),
    'autoprog/deit-s_in1k.py': (Subnet(12, 224), [0, 25, 50, 75]),
    # Short sides of the fixture's images are 48 pixels in the middle.
    'autoprog/deit-t_custom.py': (Subnet(12, 32), [0, 25, 50, 75]),
    'autoprog/deit-t_in1k.py': (Subnet(12, 224), [0, 25, 50, 75]),
    'autoprog/volo-d1_0.4_in1k.py': (Subnet(18, 224), [0, 25, 50, 75]),
    'autoprog/volo-d1_in1k.py': (Subnet(18, 224), [0, 25, 50, 75]),
    'autoprog/volo-d1_tokenlabel_in1k.py': (Subnet(18, 224), [0, 25, 50, 75]),
    'autoprog/volo-d2_in1k.py': (Subnet(24, 224), [0, 25, 50, 75]),
    'autoprog/volo-micro_mnist5k.py': (Subnet(6, 48), [0, 10, 20]),
    'baseline/deit-micro_baseline_mnist5k.py': (Subnet(6, 32), [0]),
    'baseline/deit-s_baseline_in1k.py': (Subnet(12, 224), [0]),
    'baseline/deit-t_baseline_custom.py': (Subnet(12, 32), [0]),
    'baseline/volo-d1_baseline_in1k.py': (Subnet(18, 224), [0]),
    'baseline/volo-micro_baseline_mnist5k.py': (Subnet(6, 48), [0]),
    'prog/deit-micro_prog_mnist5k.py': (Subnet(3, 16), [0, 8, 16]),
    'prog/deit-s_prog_in1k.py': (Subnet(6, 128), [0, 25, 50, 75]),
    'prog/deit-t_prog_custom.py': (Subnet(6, 16), [0, 25, 50, 75]),
    'prog/volo-d1_prog_in1k.py': (Subnet(9, 128), [0, 25, 50, 75]),
}


class StopAfterOneEpoch(Hook):

    def after_train_epoch(self, runner):
        runner.train_loop.stop_training = True


def test_every_config_is_known():
    assert CONFIGS == sorted(FIRST)
    names = [Path(config).name for config in CONFIGS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize('config', CONFIGS)
def test_config_trains(config, jpeg_root, tmp_path):
    cfg = Config.fromfile(ROOT / config)
    options = {
        'train_dataloader.batch_size': 2,
        'train_dataloader.num_workers': 0,
        'train_dataloader.dataset.indices': 4,
    }
    if 'in1k' in config:
        options['train_dataloader.dataset.data_root'] = str(jpeg_root)
    if 'custom' in config:
        options['data_root'] = str(jpeg_root)
    if cfg.custom_hooks[0].get('search'):
        options['custom_hooks.0.search.eval_batches'] = 1
    if 'tokenlabel' in config:
        loader, = (t for t in cfg.train_dataloader.dataset.pipeline if t.type == 'LoadTokenLabel')
        loader.label_root = str(write_label_maps(jpeg_root, tmp_path / 'maps', loader.num_classes))
    cfg = prepare_config(
        cfg,
        argparse.Namespace(
            config=config, work_dir=str(tmp_path), launcher='none', resume=None, amp=False,
            no_validate=True, auto_scale_lr=False, no_pin_memory=True,
            no_persistent_workers=True, cfg_options=options))
    cfg.experiment_name = f'{Path(config).stem}_{time.time_ns()}'
    cfg.default_hooks.checkpoint.save_last = False
    cfg.default_hooks.checkpoint.interval = -1
    runner = run(cfg, StopAfterOneEpoch())
    # Repeated augmentation draws as many samples as there are images, too.
    assert runner.iter == 2
    hook, = (h for h in runner.hooks if type(h).__name__ == 'AutoProgHook')
    subnet, begins = FIRST[config]
    assert runner.model.backbone.awake_subnet == subnet
    assert [stage.begin_epoch for stage in hook.stages] == begins
    assert hook.stages[-1].subnet == runner.model.backbone.full_subnet
    assert all(
        (p in runner.optim_wrapper.optimizer.state) == p.requires_grad
        for group in runner.model.backbone.slot_groups
        for slot in group if config.startswith(('prog', 'baseline'))
        for p in slot.parameters())


def test_imagenet_recipe_is_deits():
    cfg = Config.fromfile(ROOT / 'autoprog' / 'deit-s_in1k.py')
    assert cfg.optim_wrapper.type == 'AmpMoGrowOptimWrapper'
    assert cfg.optim_wrapper.dtype == 'bfloat16'
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 1e-3, 0.05)
    # Eight GPUs at 128 images.
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 1024
    warm_up, cosine = cfg.param_scheduler
    assert (warm_up.end, cosine.begin, cosine.end, cosine.eta_min) == (5, 5, 100, 1e-5)
    assert [(a.type, a.alpha) for a in cfg.model.train_cfg.augments] == [('Mixup', 0.8),
                                                                         ('CutMix', 1.0)]
    assert cfg.model.head.loss.label_smooth_val == 0.1
    assert cfg.model.backbone.drop_path_rate == 0.1
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert steps['ProgressiveRandAugment'].magnitude_level == 9
    assert steps['ProgressiveRandAugment'].magnitude_std == 0.5
    assert steps['ProgressiveRandomErasing'].erase_prob == 0.25
    assert cfg.train_dataloader.sampler == dict(
        type='RepeatAugSampler', shuffle=True, num_repeats=3)
    longer = Config.fromfile(ROOT / 'autoprog' / 'deit-s_300e_in1k.py')
    assert longer.train_cfg.max_epochs == longer.param_scheduler[1].end == 300
    smaller = Config.fromfile(ROOT / 'autoprog' / 'deit-s_0.4_in1k.py')
    assert smaller.custom_hooks[0].initial_scale == dict(depth=0.4, resolution=0.4)


def test_compared_configs_differ_in_growth_only():
    for names in (('autoprog/deit-s_in1k.py', 'prog/deit-s_prog_in1k.py',
                   'baseline/deit-s_baseline_in1k.py'),
                  ('autoprog/deit-micro_mnist5k.py', 'prog/deit-micro_prog_mnist5k.py',
                   'baseline/deit-micro_baseline_mnist5k.py'),
                  ('autoprog/deit-t_custom.py', 'prog/deit-t_prog_custom.py',
                   'baseline/deit-t_baseline_custom.py'),
                  ('autoprog/volo-d1_in1k.py', 'prog/volo-d1_prog_in1k.py',
                   'baseline/volo-d1_baseline_in1k.py'),
                  ('autoprog/volo-micro_mnist5k.py',
                   'baseline/volo-micro_baseline_mnist5k.py')):
        recipes = [Config.fromfile(ROOT / name).to_dict() for name in names]
        for recipe in recipes:
            recipe['custom_hooks'] = recipe['custom_hooks'][1:]
        assert all(recipe == recipes[0] for recipe in recipes)


def test_imagenet_recipe_is_volos():
    cfg = Config.fromfile(ROOT / 'autoprog' / 'volo-d1_in1k.py')
    assert (cfg.optim_wrapper.type, cfg.optim_wrapper.dtype) == ('AmpMoGrowOptimWrapper',
                                                                 'bfloat16')
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 1.6e-3, 0.05)
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 1024
    warm_up, cosine = cfg.param_scheduler
    assert (warm_up.end, cosine.begin, cosine.end) == (20, 20, 100) and \
        cfg.train_cfg.max_epochs == 100
    assert 'train_cfg' not in cfg.model  # no mixup
    assert cfg.model.head.dense_weight == 0.5 and cfg.model.backbone.drop_path_rate == 0.1
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert steps['ProgressiveRandAugment'].magnitude_level == 9
    assert steps['ProgressiveRandomErasing'].erase_prob == 0.25
    assert cfg.train_dataloader.sampler == dict(type='DefaultSampler', shuffle=True)
    assert cfg.custom_hooks[0].initial_scale == dict(depth=0.5, resolution=0.5)
    smaller = Config.fromfile(ROOT / 'autoprog' / 'volo-d1_0.4_in1k.py')
    assert smaller.custom_hooks[0].initial_scale == dict(depth=0.4, resolution=0.4)
    assert cfg.sync_bn == 'torch'
    # With token labels only the labels differ.
    labeled = Config.fromfile(ROOT / 'autoprog' / 'volo-d1_tokenlabel_in1k.py')
    pipeline = cfg.train_dataloader.dataset.pipeline
    assert labeled.train_dataloader.dataset.pipeline[:-2] == pipeline[:-1]
    assert labeled.model.backbone == cfg.model.backbone
    assert labeled.optim_wrapper == cfg.optim_wrapper
