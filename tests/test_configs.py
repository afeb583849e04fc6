# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Every config is built; those that differ in kind are trained two steps."""
import argparse
import time
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmpretrain.registry import MODELS

from autoprog_mm.growth import build_schedule
from autoprog_mm.launch import prepare_config
from tests.micro import differing, run, write_label_maps

ROOT = Path(__file__).parents[1] / 'configs'
CONFIGS = sorted(
    str(path.relative_to(ROOT)) for path in ROOT.rglob('*.py')
    if not {'_base_', 'experiments'} & set(path.relative_to(ROOT).parts))

# The subnets of stages, and the epochs at which these begin, by hand.
STAGES = {
    'autoprog/deit-b_in1k.py': ('6x128 8x160 10x192 12x224', [0, 25, 50, 75]),
    'autoprog/deit-micro_mnist5k.py': ('3x16 5x24 6x32', [0, 8, 16]),
    'autoprog/deit-s_0.4_in1k.py': ('5x96 7x128 10x192 12x224', [0, 25, 50, 75]),
    'autoprog/deit-s_300e_in1k.py': ('6x128 8x160 10x192 12x224', [0, 75, 150, 225]),
    'autoprog/deit-s_in1k.py': ('6x128 8x160 10x192 12x224', [0, 25, 50, 75]),
    # Short sides of the fixture's images are 48 pixels in the middle.
    'autoprog/deit-t_custom.py': ('6x16 8x20 10x28 12x32', [0, 25, 50, 75]),
    'autoprog/deit-t_in1k.py': ('6x128 8x160 10x192 12x224', [0, 25, 50, 75]),
    'autoprog/volo-d1_0.4_in1k.py': ('7x96 11x128 14x192 18x224', [0, 25, 50, 75]),
    'autoprog/volo-d1_0.4_tokenlabel_in1k.py': (
        '7x96 11x128 14x192 18x224', [0, 25, 50, 75]),
    'autoprog/volo-d1_in1k.py': ('9x128 12x160 15x192 18x224', [0, 25, 50, 75]),
    'autoprog/volo-d1_tokenlabel_in1k.py': ('9x128 12x160 15x192 18x224', [0, 25, 50, 75]),
    'autoprog/volo-d2_in1k.py': ('12x128 16x160 20x192 24x224', [0, 25, 50, 75]),
    'autoprog/volo-micro_mnist5k.py': ('3x24 5x40 6x48', [0, 10, 20]),
    'baseline/deit-micro_baseline_mnist5k.py': ('6x32', [0]),
    'baseline/deit-s_baseline_in1k.py': ('12x224', [0]),
    'baseline/deit-t_baseline_custom.py': ('12x32', [0]),
    'baseline/volo-d1_baseline_in1k.py': ('18x224', [0]),
    'baseline/volo-d1_baseline_tokenlabel_in1k.py': ('18x224', [0]),
    'baseline/volo-micro_baseline_mnist5k.py': ('6x48', [0]),
    # Before the budget gives stages other epochs.
    'budget/deit-b_2x_in1k.py': ('6x128 8x160 10x192 12x224', [0, 25, 50, 75]),
    'budget/deit-b_3x_in1k.py': ('6x128 8x160 10x192 12x224', [0, 25, 50, 75]),
    'budget/deit-s_2x_in1k.py': ('6x128 8x160 10x192 12x224', [0, 25, 50, 75]),
    'budget/deit-s_3x_in1k.py': ('6x128 8x160 10x192 12x224', [0, 25, 50, 75]),
    'budget/deit-t_2x_in1k.py': ('6x128 8x160 10x192 12x224', [0, 25, 50, 75]),
    'budget/deit-t_3x_in1k.py': ('6x128 8x160 10x192 12x224', [0, 25, 50, 75]),
    'budget/volo-d1_2x_in1k.py': ('9x128 12x160 15x192 18x224', [0, 25, 50, 75]),
    'budget/volo-d1_3x_in1k.py': ('9x128 12x160 15x192 18x224', [0, 25, 50, 75]),
    'prog/deit-micro_prog_mnist5k.py': ('3x16 5x24 6x32', [0, 8, 16]),
    'prog/deit-s_prog_in1k.py': ('6x128 8x160 10x192 12x224', [0, 25, 50, 75]),
    'prog/deit-t_prog_custom.py': ('6x16 8x20 10x28 12x32', [0, 25, 50, 75]),
    'prog/volo-d1_prog_in1k.py': ('9x128 12x160 15x192 18x224', [0, 25, 50, 75]),
    'prog/volo-d1_prog_tokenlabel_in1k.py': ('9x128 12x160 15x192 18x224', [0, 25, 50, 75]),
}
# Which differ in kind: in backbone, labels, data, or in how they grow.
TRAINED = [
    'autoprog/deit-micro_mnist5k.py', 'autoprog/deit-s_in1k.py', 'autoprog/deit-t_custom.py',
    'autoprog/volo-d1_tokenlabel_in1k.py', 'autoprog/volo-micro_mnist5k.py',
    'baseline/deit-s_baseline_in1k.py', 'prog/deit-micro_prog_mnist5k.py',
    'prog/volo-d1_prog_in1k.py',
]
# The others: a config that is trained, and what differs from it.
BASELINE = {'custom_hooks.0'}
MANUAL = {'custom_hooks.0.search'}
SCALE = {'custom_hooks.0.initial_scale.depth', 'custom_hooks.0.initial_scale.resolution'}
WIDTH = {'model.backbone.arch', 'model.head.in_channels'}
BUDGET = {'custom_hooks.0.speedup'}
DIFFER = {
    'autoprog/deit-b_in1k.py': ('autoprog/deit-s_in1k.py', WIDTH),
    'autoprog/deit-s_0.4_in1k.py': ('autoprog/deit-s_in1k.py', SCALE),
    'autoprog/deit-s_300e_in1k.py': (
        'autoprog/deit-s_in1k.py', {'train_cfg.max_epochs', 'param_scheduler.1.end'}),
    'autoprog/deit-t_in1k.py': ('autoprog/deit-s_in1k.py', WIDTH),
    'autoprog/volo-d1_in1k.py': ('prog/volo-d1_prog_in1k.py', MANUAL),
    'autoprog/volo-d1_0.4_in1k.py': ('prog/volo-d1_prog_in1k.py', MANUAL | SCALE),
    'autoprog/volo-d1_0.4_tokenlabel_in1k.py': ('autoprog/volo-d1_tokenlabel_in1k.py', SCALE),
    'autoprog/volo-d2_in1k.py': ('prog/volo-d1_prog_in1k.py', MANUAL | WIDTH | {
        'model.backbone.drop_path_rate', 'optim_wrapper.optimizer.lr',
        'param_scheduler.0.start_factor'}),
    'baseline/deit-micro_baseline_mnist5k.py': ('autoprog/deit-micro_mnist5k.py', BASELINE),
    'baseline/deit-t_baseline_custom.py': ('autoprog/deit-t_custom.py', BASELINE),
    'baseline/volo-d1_baseline_in1k.py': ('prog/volo-d1_prog_in1k.py', BASELINE),
    'baseline/volo-d1_baseline_tokenlabel_in1k.py': (
        'autoprog/volo-d1_tokenlabel_in1k.py', BASELINE),
    'baseline/volo-micro_baseline_mnist5k.py': ('autoprog/volo-micro_mnist5k.py', BASELINE),
    'budget/deit-b_2x_in1k.py': ('autoprog/deit-s_in1k.py', MANUAL | BUDGET | WIDTH),
    'budget/deit-b_3x_in1k.py': ('autoprog/deit-s_in1k.py', MANUAL | BUDGET | WIDTH),
    'budget/deit-s_2x_in1k.py': ('autoprog/deit-s_in1k.py', MANUAL | BUDGET),
    'budget/deit-s_3x_in1k.py': ('autoprog/deit-s_in1k.py', MANUAL | BUDGET),
    'budget/deit-t_2x_in1k.py': ('autoprog/deit-s_in1k.py', MANUAL | BUDGET | WIDTH),
    'budget/deit-t_3x_in1k.py': ('autoprog/deit-s_in1k.py', MANUAL | BUDGET | WIDTH),
    'budget/volo-d1_2x_in1k.py': ('prog/volo-d1_prog_in1k.py', BUDGET),
    'budget/volo-d1_3x_in1k.py': ('prog/volo-d1_prog_in1k.py', BUDGET),
    'prog/deit-s_prog_in1k.py': ('autoprog/deit-s_in1k.py', MANUAL),
    'prog/deit-t_prog_custom.py': ('autoprog/deit-t_custom.py', MANUAL),
    'prog/volo-d1_prog_tokenlabel_in1k.py': ('autoprog/volo-d1_tokenlabel_in1k.py', MANUAL),
}
# Networks of the same depth, and narrow.
NARROW = {
    'deit': (dict(_delete_=True, embed_dims=24, num_layers=12, num_heads=2,
                  feedforward_channels=24), 24),
    'volo-d1': (dict(_delete_=True, layers=(4, 4, 8, 2), embed_dims=(8, 16, 16, 16),
                     num_heads=(1, 2, 2, 2), stem_hidden_dim=4), 16),
}


@cache
def read_once(config):
    return Config.fromfile(ROOT / config)


def read(config, folder, jpeg_root, **options):
    """A config as a tool prepares it, with little data."""
    cfg = deepcopy(read_once(config))
    if 'in1k' in config:
        options['train_dataloader.dataset.data_root'] = str(jpeg_root)
    if 'custom' in config:
        options['data_root'] = str(jpeg_root)
    return prepare_config(
        cfg,
        argparse.Namespace(
            config=config, work_dir=str(folder), launcher='none', resume=None, amp=False,
            no_validate=True, auto_scale_lr=False, no_pin_memory=True,
            no_persistent_workers=True, cfg_options=options))


class StopAfterOneEpoch(Hook):

    def after_train_epoch(self, runner):
        runner.train_loop.stop_training = True


def test_every_config_is_known():
    assert CONFIGS == sorted(STAGES) == sorted([*TRAINED, *DIFFER])
    names = [Path(config).name for config in CONFIGS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize('config', TRAINED)
def test_config_trains(config, jpeg_root, tmp_path):
    options = {
        'train_dataloader.batch_size': 2,
        'train_dataloader.num_workers': 0,
        'train_dataloader.dataset.indices': 4,
        'default_hooks.checkpoint.save_last': False,
        'default_hooks.checkpoint.interval': -1,
    }
    for name, (arch, width) in NARROW.items():
        if name in config and 'micro' not in config:
            options.update({'model.backbone.arch': arch, 'model.head.in_channels': width})
    searches = config.startswith('autoprog')
    if searches:
        options['custom_hooks.0.search.eval_batches'] = 1
    cfg = read(config, tmp_path, jpeg_root, **options)
    for step in cfg.train_dataloader.dataset.pipeline:
        if step.type == 'LoadTokenLabel':
            step.label_root = str(write_label_maps(jpeg_root, tmp_path / 'maps', step.num_classes))
    cfg.experiment_name = f'{Path(config).stem}_{time.time_ns()}'
    runner = run(cfg, StopAfterOneEpoch())
    # Repeated augmentation draws as many samples as there are images, too.
    assert runner.iter == 2
    hook, = (h for h in runner.hooks if type(h).__name__ == 'AutoProgHook')
    subnets, begins = STAGES[config]
    assert ' '.join(str(stage.subnet) for stage in hook.stages) == subnets
    assert [stage.begin_epoch for stage in hook.stages] == begins
    assert hook.stages[-1].end_epoch == cfg.train_cfg.max_epochs
    backbone = runner.model.backbone
    assert hook.stages[-1].subnet == backbone.full_subnet
    # In a search all that is a candidate is awake.
    assert backbone.awake_subnet == hook.stages[-1 if searches else 0].subnet
    assert searches or all(
        (p in runner.optim_wrapper.optimizer.state) == p.requires_grad
        for group in backbone.slot_groups for slot in group for p in slot.parameters())


@pytest.mark.parametrize('config', DIFFER)
def test_config_is_one_that_trains_with_other_numbers(config, jpeg_root, tmp_path):
    other, places = DIFFER[config]
    assert other in TRAINED
    ours, theirs = (read_once(name).to_dict() for name in (config, other))
    found = set(differing(ours, theirs))
    assert {'custom_hooks.0' if places == BASELINE and place.startswith('custom_hooks.0.')
            else place for place in found} == places
    cfg = read(config, tmp_path, jpeg_root)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert model.backbone.pos_embed.shape[-1] == cfg.model.head.in_channels
    hook = cfg.custom_hooks[0]
    stages = build_schedule(
        hook.num_stages, cfg.train_cfg.max_epochs, model.backbone.full_subnet,
        hook.get('initial_scale', {}),
        resolution_divisor=hook.get('resolution_divisor', 1 if hook.num_stages == 1 else 32),
        cooldown_epochs=cfg.param_scheduler[-1].get('cooldown', 0))
    subnets, begins = STAGES[config]
    assert ' '.join(str(stage.subnet) for stage in stages) == subnets
    assert [stage.begin_epoch for stage in stages] == begins


def test_imagenet_recipe_is_deits():
    cfg = read_once('autoprog/deit-s_in1k.py')
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
    longer = read_once('autoprog/deit-s_300e_in1k.py')
    assert longer.train_cfg.max_epochs == longer.param_scheduler[1].end == 300
    smaller = read_once('autoprog/deit-s_0.4_in1k.py')
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
                  ('autoprog/volo-d1_tokenlabel_in1k.py', 'prog/volo-d1_prog_tokenlabel_in1k.py',
                   'autoprog/volo-d1_0.4_tokenlabel_in1k.py',
                   'baseline/volo-d1_baseline_tokenlabel_in1k.py'),
                  ('autoprog/volo-micro_mnist5k.py',
                   'baseline/volo-micro_baseline_mnist5k.py')):
        recipes = [read_once(name).to_dict() for name in names]
        for recipe in recipes:
            recipe['custom_hooks'] = recipe['custom_hooks'][1:]
        assert all(recipe == recipes[0] for recipe in recipes)


def test_imagenet_recipe_is_volos():
    cfg = read_once('autoprog/volo-d1_in1k.py')
    assert (cfg.optim_wrapper.type, cfg.optim_wrapper.dtype) == ('AmpMoGrowOptimWrapper',
                                                                 'bfloat16')
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 1.6e-3, 0.05)
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 1024
    warm_up, cosine = cfg.param_scheduler  # compared with timm's in test_cycle_cosine_lr.py
    assert (cosine.type, warm_up.end, cosine.begin) == ('CycleCosineLR', 20, 20)
    assert cosine.end == cfg.train_cfg.max_epochs == 100 + cosine.cooldown == 110
    for config in ('autoprog/volo-d1_in1k.py', 'autoprog/volo-d2_in1k.py'):
        other = read_once(config)
        first = other.optim_wrapper.optimizer.lr * other.param_scheduler[0].start_factor
        assert first == pytest.approx(1e-6)
    assert 'train_cfg' not in cfg.model  # no mixup
    assert cfg.model.head.dense_weight == 0.5 and cfg.model.backbone.drop_path_rate == 0.1
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert steps['ProgressiveRandAugment'].magnitude_level == 9
    assert steps['ProgressiveRandomErasing'].erase_prob == 0.25
    assert cfg.train_dataloader.sampler == dict(type='DefaultSampler', shuffle=True)
    assert cfg.custom_hooks[0].initial_scale == dict(depth=0.5, resolution=0.5)
    smaller = read_once('autoprog/volo-d1_0.4_in1k.py')
    assert smaller.custom_hooks[0].initial_scale == dict(depth=0.4, resolution=0.4)
    assert cfg.sync_bn == 'torch'
    # With token labels only the labels differ.
    labeled = read_once('autoprog/volo-d1_tokenlabel_in1k.py')
    pipeline = cfg.train_dataloader.dataset.pipeline
    assert labeled.train_dataloader.dataset.pipeline[:-2] == pipeline[:-1]
    assert labeled.model.backbone == cfg.model.backbone
    assert labeled.param_scheduler == cfg.param_scheduler
    assert labeled.model.head.loss.label_smooth_val == 0.1
    assert labeled.optim_wrapper == cfg.optim_wrapper
