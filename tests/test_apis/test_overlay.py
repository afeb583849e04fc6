# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Stock configs become AutoProg configs, or there is a sentence that says why not."""
import argparse
import sys
from pathlib import Path

import mmpretrain
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.hooks import Hook
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmpretrain.registry import HOOKS, MODELS

import autoprog_mm
from autoprog_mm.apis.config_text import config_text, overrides
from autoprog_mm.datasets.pipelines import ProgressivePipelines
from autoprog_mm.engine.run_parts import RunParts
from autoprog_mm.launch import exit_on_user_error, prepare_config
from tests.micro import run
from tests.test_tools import load_tool

ROOT = Path(__file__).parents[2]

STOCK = Path(mmpretrain.__file__).parent / '.mim' / 'configs'
# All of mmpretrain's that can be converted, with what the first and the last
# stage of the manual schedule run: half, and all. Patches of 14 pixels go by
# steps of 28, others by 32.
CONVERTED = {
    'clip/vit-base-p16_pt-64xb64_in1k': ((6, 128), (12, 224)),
    'clip/vit-base-p32_pt-64xb64_in1k': ((6, 128), (12, 224)),
    'deit/deit-base_16xb32_in1k-384px': ((6, 192), (12, 384)),
    'deit/deit-base_16xb64_in1k': ((6, 128), (12, 224)),
    'deit/deit-small_4xb256_in1k': ((6, 128), (12, 224)),
    'deit/deit-tiny_4xb256_in1k': ((6, 128), (12, 224)),
    'eva/benchmarks/vit-base-p16_8xb128-coslr-100e_in1k': ((6, 128), (12, 224)),
    'mae/benchmarks/vit-base-p16_8xb128-coslr-100e_in1k': ((6, 128), (12, 224)),
    'mae/benchmarks/vit-huge-p14_32xb8-coslr-50e_in1k-448px': ((16, 224), (32, 448)),
    'mae/benchmarks/vit-huge-p14_8xb128-coslr-50e_in1k': ((16, 112), (32, 224)),
    'mae/benchmarks/vit-large-p16_8xb128-coslr-50e_in1k': ((12, 128), (24, 224)),
    'maskfeat/benchmarks/vit-base-p16_8xb256-coslr-100e_in1k': ((6, 128), (12, 224)),
    'mff/benchmarks/vit-base-p16_8xb128-coslr-100e_in1k': ((6, 128), (12, 224)),
    'milan/benchmarks/vit-base-p16_8xb128-coslr-100e_in1k': ((6, 128), (12, 224)),
    'mocov3/benchmarks/vit-base-p16_8xb64-coslr-150e_in1k': ((6, 128), (12, 224)),
    'mocov3/benchmarks/vit-large-p16_8xb64-coslr-100e_in1k': ((12, 128), (24, 224)),
    'vision_transformer/vit-base-p16_32xb128-mae_in1k': ((6, 128), (12, 224)),
    'vision_transformer/vit-base-p16_64xb64_in1k': ((6, 128), (12, 224)),
    'vision_transformer/vit-base-p16_64xb64_in1k-384px': ((6, 192), (12, 384)),
    'vision_transformer/vit-base-p32_64xb64_in1k': ((6, 128), (12, 224)),
    'vision_transformer/vit-base-p32_64xb64_in1k-384px': ((6, 192), (12, 384)),
    'vision_transformer/vit-large-p16_64xb64_in1k': ((12, 128), (24, 224)),
    'vision_transformer/vit-large-p16_64xb64_in1k-384px': ((12, 192), (24, 384)),
    'vision_transformer/vit-large-p32_64xb64_in1k': ((12, 128), (24, 224)),
    'vision_transformer/vit-large-p32_64xb64_in1k-384px': ((12, 192), (24, 384)),
}

# Of deit-base_16xb64_in1k.py, whole. What is not in here stays as it is.
EXPECTED = """\
# deit-base_16xb64_in1k.py with AutoProg (arXiv 2203.14509), made by tools/overlay.py:
# 4 stages, with a search, initial scale 0.5 of the depth and 0.4 of the resolution.
#
# Time:     not measured
# Top-1:    not measured
_base_ = 'mmpretrain::deit/deit-base_16xb64_in1k.py'

custom_imports = dict(imports=['autoprog_mm'])

# The same backbone, with the same checkpoints, that can run a part of itself.
model = dict(backbone=dict(type='ElasticDeiT'))

# A search resizes batches on the device.
data_preprocessor = dict(type='ElasticDataPreprocessor')

# Crops have the size of the stage, and augmentation its strength.
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ProgressiveRandomResizedCrop', scale=224, backend='pillow', interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(
        type='ProgressiveRandAugment',
        policies='timm_increasing',
        num_policies=2,
        total_level=10,
        magnitude_level=9,
        magnitude_std=0.5,
        hparams=dict(pad_val=[104, 116, 124], interpolation='bicubic')),
    dict(
        type='ProgressiveRandomErasing',
        erase_prob=0.25,
        mode='rand',
        min_area_ratio=0.02,
        max_area_ratio=0.3333333333333333,
        fill_color=[103.53, 116.28, 123.675],
        fill_std=[57.375, 57.12, 58.395]),
    dict(type='PackInputs')
]

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

# It keeps the momentum copies that growth and validation use, and grows.
optim_wrapper = dict(
    type='MoGrowOptimWrapper',
    constructor='MergedOptimWrapperConstructor',
    ema_decays=(0.998, 0.99996))

# When the network grows, and how far.
custom_hooks = [
    dict(
        type='AutoProgHook',
        num_stages=4,
        initial_scale=dict(depth=0.5, resolution=0.4),
        search=dict(type='OneShotSearch', epochs=3)),
    dict(type='MoGrowEMAHook')
]

# A run can be stopped at any step, and goes on there.
train_cfg = dict(_delete_=True, type='ResumableTrainLoop', max_epochs=300, val_interval=1)

# Checkpoints that a kill cannot spoil; signals, bad images and losses.
default_hooks = dict(
    checkpoint=dict(type='SafeCheckpointHook'),
    guard=dict(type='RunGuardHook'),
    runtime_info=dict(type='LateRuntimeInfoHook'))

# Lines that say what runs, and an ETA that knows what is to come.
log_processor = dict(type='AutoProgLogProcessor')

# For several GPUs.
model_wrapper_cfg = dict(type='mmpretrain.ElasticDistributedDataParallel')
"""


class StopAfterOneEpoch(Hook):

    def after_train_epoch(self, runner):
        runner.train_loop.stop_training = True


class Dataset:

    def __init__(self, pipeline):
        self.pipeline = Compose(pipeline)


def stock(name='deit/deit-tiny_4xb256_in1k', **options) -> Config:
    """A stock config, '__' in an option standing for a dot."""
    cfg = Config.fromfile(STOCK / f'{name}.py')
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in options.items()})
    return cfg


def call(monkeypatch, *args):
    monkeypatch.setattr(sys, 'argv', ['overlay.py', *map(str, args)])
    with exit_on_user_error():
        load_tool(ROOT / 'tools' / 'overlay.py').main()


@pytest.mark.parametrize('name', CONVERTED)
def test_stock_config_converts(name):
    before = stock(name)
    unchanged = before.to_dict()
    cfg = autoprog_mm.overlay(before, search=None)
    assert before.to_dict() == unchanged

    first, last = CONVERTED[name]
    hook = HOOKS.build(cfg.custom_hooks[0])
    with DefaultScope.overwrite_default_scope('mmpretrain'), torch.device('meta'):
        model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        dataset = Dataset(cfg.train_dataloader.dataset.pipeline)
    assert type(model.backbone).__name__ == 'ElasticDeiT'
    assert type(model.data_preprocessor).__name__ == 'ElasticDataPreprocessor'
    assert type(wrapper).__name__ == 'MoGrowOptimWrapper'
    # Layer-wise learning rates stay.
    assert (len(wrapper.optimizer.param_groups) > 10) == ('layer_decay_rate' in str(unchanged))
    pipelines = ProgressivePipelines(dataset, last[1])
    parts = RunParts(model, None, model.backbone, wrapper, pipelines)
    stages = parts.build_schedule(cfg.train_cfg.max_epochs, **hook.schedule)
    subnets = [(stage.subnet.depth, stage.subnet.resolution) for stage in stages]
    assert len(subnets) == 4 and (subnets[0], subnets[-1]) == (first, last)

    # The file that is written gives the same.
    merged = Config(unchanged)
    merged.merge_from_dict(overrides(unchanged, cfg.to_dict()))
    assert merged.to_dict() == cfg.to_dict()
    assert len(config_text('x', before, cfg, '').splitlines()) < 90


def test_all_others_are_refused():
    """Those that have a stock ViT, or look as if they had."""
    refused = []
    for path in sorted(STOCK.rglob('*.py')):
        name = path.relative_to(STOCK).with_suffix('').as_posix()
        if '_base_' in path.parts or name in CONVERTED or not path.name.startswith(
                ('vit-', 'deit-', 'deit3-tiny', 'beit-', 'swin-tiny_16')):
            continue
        with pytest.raises(ValueError, match=r'^\S.*\.$'):
            autoprog_mm.overlay(Config.fromfile(path))
        refused.append(name)
    assert len(refused) > 20


def test_tool_writes_what_overlay_gives(monkeypatch, tmp_path, capsys):
    out = tmp_path / 'new' / 'mine.py'
    name = 'mmpretrain::deit/deit-base_16xb64_in1k.py'
    args = [name, out, '--resolution-scale', '0.4', '--search-epochs', '3']
    call(monkeypatch, *args)
    assert out.read_text() == EXPECTED
    assert capsys.readouterr().out == f'Wrote {out}. Train it with: python tools/train.py {out}\n'
    cfg = autoprog_mm.overlay(
        Config.fromstring(f'_base_ = {name!r}', '.py'), dict(depth=0.5, resolution=0.4),
        search=dict(type='OneShotSearch', epochs=3))
    assert Config.fromfile(out).to_dict() == cfg.to_dict()

    with pytest.raises(SystemExit, match='2'):
        call(monkeypatch, *args)
    assert 'exists. Choose another name, or --force.' in capsys.readouterr().err
    call(monkeypatch, *args[:2], '--force', '--no-search')
    assert Config.fromfile(out).custom_hooks[0].search is None


def test_converted_config_of_a_path_trains(monkeypatch, jpeg_root, tmp_path):
    # A user's own config, in another folder.
    own = tmp_path / 'own' / 'mine.py'
    own.parent.mkdir()
    own.write_text(f"""
_base_ = {str(STOCK / 'deit/deit-tiny_4xb256_in1k.py')!r}
optim_wrapper = dict(
    type='AmpOptimWrapper', optimizer=dict(_delete_=True, type='Lamb', lr=1e-3, weight_decay=0.05))
model = dict(data_preprocessor=dict(num_classes=1000, mean=[120] * 3, std=[60] * 3))
custom_hooks = [dict(type='EMAHook', momentum=1e-3), dict(type='EarlyStoppingHook', monitor='loss')]
custom_imports = dict(imports='json', allow_failed_imports=False)
default_hooks = dict(runtime_info=dict(type='MyInfoHook'))
log_processor = dict(window_size=7)
""")
    out = tmp_path / 'converted.py'
    call(monkeypatch, own, out)
    assert "_base_ = 'own/mine.py'" in out.read_text()
    cfg = Config.fromfile(out)
    assert cfg.optim_wrapper.type == 'AmpMoGrowOptimWrapper'
    assert cfg.optim_wrapper.ema_decays == (0.998, 0.999)
    assert cfg.optim_wrapper.optimizer == dict(type='Lamb', lr=1e-3, weight_decay=0.05)
    assert cfg.custom_imports == dict(imports=['autoprog_mm', 'json'], allow_failed_imports=False)
    assert [hook.type for hook in cfg.custom_hooks] == [
        'AutoProgHook', 'MoGrowEMAHook', 'EarlyStoppingHook']
    assert cfg.model.data_preprocessor.type == 'ElasticDataPreprocessor'
    assert 'type' not in cfg.data_preprocessor
    # What is not mmengine's own stays.
    assert cfg.default_hooks.runtime_info.type == 'MyInfoHook'
    assert cfg.log_processor.type == 'AutoProgLogProcessor' and cfg.log_processor.window_size == 7
    cfg.default_hooks.runtime_info.type = 'RuntimeInfoHook'
    cfg.custom_hooks.pop()
    cfg = prepare_config(
        cfg,
        argparse.Namespace(
            config=str(out), work_dir=str(tmp_path), launcher='none', resume=None, amp=False,
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
    assert type(runner.optim_wrapper.optimizer).__name__ == 'Lamb'
    assert (tmp_path / 'autoprog.json').exists()


REFUSED = {
    'other network': (dict(model__backbone__type='SwinTransformer'),
                      "model.backbone.type must be 'VisionTransformer', .*'SwinTransformer'"),
    'own network': (dict(model__backbone__type='ElasticDeiT'), 'is one of AutoProg already'),
    'not a classifier': (dict(model__type='MAE'), "model.type must be 'ImageClassifier'"),
    'frozen': (dict(model__backbone__frozen_stages=3), 'model.backbone: frozen_stages must be -1'),
    'inner outputs': (dict(model__backbone__out_indices=3), 'model.backbone: out_indices must be'),
    'other preprocessor': (dict(data_preprocessor__type='SelfSupDataPreprocessor'),
                           r"^data_preprocessor.type must be 'ClsDataPreprocessor'"),
    'other inner preprocessor': (
        dict(model__data_preprocessor=dict(type='SelfSupDataPreprocessor')),
        r"^model.data_preprocessor.type must be 'ClsDataPreprocessor'"),
    'no crop': (dict(train_dataloader__dataset__pipeline=[dict(type='LoadImageFromFile')]),
                r'train_dataloader.dataset.pipeline needs exactly one RandomResizedCrop.*has 0'),
    'crop of another size': (
        dict(train_dataloader__dataset__pipeline=[dict(type='RandomResizedCrop', scale=192)]),
        r'\(192\) must be img_size of the backbone \(224\)'),
    'crop missing in one dataset': (
        dict(train_dataloader__dataset=dict(_delete_=True, type='ConcatDataset', datasets=[
            dict(type='ImageNet', pipeline=[dict(type='RandomResizedCrop', scale=(224, 224))]),
            dict(type='RepeatDataset', times=2, dataset=dict(type='ImageNet', pipeline=[]))])),
        r'train_dataloader.dataset.datasets.1.dataset.pipeline needs exactly one'),
    'by steps': (dict(train_cfg__by_epoch=False), 'stages are counted in epochs.*IterBased'),
    'other loop': (dict(train_cfg=dict(_delete_=True, type='IterBasedTrainLoop', max_iters=9)),
                   'stages are counted in epochs, but is that of IterBasedTrainLoop'),
    'no training': (dict(train_cfg=None), 'does not say how to train: it has no train_cfg'),
    'other wrapper': (dict(optim_wrapper__type='ApexOptimWrapper'),
                      r"optim_wrapper.type must be one of \['AmpOptimWrapper', 'OptimWrapper'\]"),
    'other checkpoints': (dict(default_hooks__checkpoint__type='MyHook'),
                          "default_hooks.checkpoint.type must be 'CheckpointHook'"),
    'recipe switched': (dict(custom_hooks=[dict(type='SwitchRecipeHook')]),
                        'custom_hooks has a SwitchRecipeHook'),
    'sharded': (dict(model_wrapper_cfg=dict(type='MMFullyShardedDataParallel')),
                r"model_wrapper_cfg.type \('MMFullyShardedDataParallel'\) must not be set"),
    'other runner': (dict(runner_type='FlexibleRunner'), 'runner_type .*must not be set'),
    'other scope': (dict(default_scope='mmdet'), "default_scope must be 'mmpretrain'"),
    'few epochs': (dict(train_cfg__max_epochs=7), r'search.epochs \(2\).*stage 0 has 1 epochs'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_what_cannot_grow_gets_a_sentence(name):
    options, sentence = REFUSED[name]
    with pytest.raises(ValueError, match=sentence):
        autoprog_mm.overlay(stock(**options))


@pytest.mark.parametrize('arguments, sentence', [
    (dict(scale=1.5), r'initial_scale.depth must be a number in \(0, 1\]'),
    (dict(scale=dict(width=0.5)), "initial_scale got unknown keys"),
    (dict(num_stages=0), 'num_stages must be an int of at least 1'),
    (dict(num_stages=301, search=None), r'num_stages \(301\) must not exceed max_epochs'),
    (dict(search=dict(type='OneShotSearch', epochs=76)), r'search.epochs \(76\) must not exceed'),
    (dict(resolution_divisor=28), r'resolution \(112\) must be divisible by 16|divisor'),
    (dict(resolution_divisor=50), r'resolution_divisor \(50\) must divide'),
])
def test_arguments_that_do_not_fit_get_a_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        autoprog_mm.overlay(stock(), **arguments)


@pytest.mark.parametrize('args, sentence', [
    (['mmpretrain::deit/gone.py', 'out.py'], "'mmpretrain::deit/gone.py' cannot be read"),
    (['gone.py', 'out.py'], "STOCK_CONFIG: there is no file 'gone.py'."),
    (['bad.py', 'out.py'], "'bad.py' cannot be read: ZeroDivisionError"),
    (['mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py', 'out.py'], "'SwinTransformer'"),
    (['mmpretrain::deit/deit-tiny_4xb256_in1k.py', 'out'], 'OUT.py must end with .py'),
    (['mmpretrain::deit/deit-tiny_4xb256_in1k.py', 'bad.py/out.py'], 'cannot be written'),
    (['mmpretrain::deit/deit-tiny_4xb256_in1k.py', 'out.py', '--scale', '2'], 'initial_scale'),
])
def test_tool_says_what_is_wrong(monkeypatch, tmp_path, capsys, args, sentence):
    monkeypatch.chdir(tmp_path)
    Path('bad.py').write_text('a = 1 / 0')
    with pytest.raises(SystemExit, match='2'):
        call(monkeypatch, *args)
    captured = capsys.readouterr()
    assert captured.err.startswith('overlay.py: error: ') and sentence in captured.err
    assert len(captured.err.splitlines()) == 1 and captured.out == ''
    assert [path.name for path in tmp_path.iterdir()] == ['bad.py']


def test_small_images_go_by_smaller_steps():
    cfg = stock(model__backbone=dict(arch='deit-tiny', img_size=32, patch_size=4),
                train_dataloader__dataset__pipeline=[dict(type='RandomResizedCrop', scale=32)])
    assert autoprog_mm.overlay(cfg).custom_hooks[0].resolution_divisor == 4
    assert autoprog_mm.overlay(cfg, resolution_divisor=8).custom_hooks[0].resolution_divisor == 8
    # The default of the hook is not repeated.
    assert 'resolution_divisor' not in autoprog_mm.overlay(stock()).custom_hooks[0]


def test_overrides_are_minimal_and_complete():
    before = dict(a=1, b=dict(c=2, d=[3]), e=dict(f=4), g=None, h=(1, ))
    after = dict(a=1, b=dict(c=2, d=[5]), e=dict(i=6), g=dict(j=7), h=(1, ), k=dict(l=8))
    changes = overrides(before, after)
    assert changes == dict(b=dict(d=[5]), e=dict(_delete_=True, i=6), g=dict(_delete_=True, j=7),
                           k=dict(l=8))


def test_any_value_of_a_config_is_written(tmp_path):
    before = Config(dict(a=dict(b=1)))
    after = Config(dict(a={'b': 1, '.cls': dict(x=float('inf'))}, b=(1, ), c=(), d=[None, True],
                        e="it's", f=-1e-5, g={'class': 0}))
    (tmp_path / 'base.py').write_text('a = dict(b=1)')
    (tmp_path / 'new.py').write_text(config_text('base.py', before, after, 'Title'))
    assert Config.fromfile(tmp_path / 'new.py').to_dict() == after.to_dict()
    with pytest.raises(ValueError, match='h.i is .*cannot be written into a config file'):
        config_text('base.py', before, Config(dict(before, h=dict(i=len))), '')
