# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Keys and values of a config that have no effect, or would end a run later."""
from pathlib import Path

import pytest
from mmengine.config import Config

from autoprog_mm.launch.arguments import parse_value
from autoprog_mm.launch.keys import check_keys, check_parts
from autoprog_mm.launch.options import as_whole, check_options
from autoprog_mm.utils.config_files import read_config
from tests.micro import micro_config

CONFIGS = Path(__file__).parents[2] / 'configs'


@pytest.fixture(scope='module')
def micro():
    cfg = micro_config('data', 'work_dir')
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    cfg.test_cfg, cfg.my_setting, cfg.num_epochs = dict(), 3, 8
    return cfg


def padded_collate(batch, size):
    """A function with an option of its own."""


# Each was accepted without a word, or ended a run with a stack trace.
MISTAKES = {
    'env_cfg.cudnn_bench=True': "env_cfg.cudnn_bench: .* Did you mean 'cudnn_benchmark'",
    'env_cfg.mp_cfg.mp_start=fork': "Did you mean 'mp_start_method'",
    'env_cfg.dist_cfg.time_out=1': "Did you mean 'timeout'",
    'optim_wrapper.clip_grad.max_nrm=1': "Did you mean 'max_norm'",
    'optim_wrapper.paramwise_cfg.norm_decay=0': "Did you mean 'norm_decay_mult'",
    'optim_wrapper.paramwise_cfg.custom_keys=dict(a=dict(lr_mul=1))': "Did you mean 'lr_mult'",
    'param_scheduler.0.ende=1': "Did you mean 'end'",
    'param_scheduler.1.eta_mn=1': "Did you mean 'eta_min'",
    'randomness.sed=1': "Did you mean 'seed'",
    'train_cfg.max_epoch=1': "Did you mean 'max_epochs'",
    'val_cfg.fp1=True': "Did you mean 'fp16'",
    'val_dataloader.batchsize=1': "Did you mean 'batch_size'",
    'test_dataloader.num_worker=1': "Did you mean 'num_workers'",
    'train_dataloader.collate_fn.a=1': 'train_dataloader.collate_fn has no such key',
    'model.backbone.arch.num_layer=3': "Did you mean 'num_layers'",
    'auto_scale_lr.base_batch=8': "Did you mean 'base_batch_size'",
    'custom_imports.import=a': "Did you mean 'imports'",
    'default_hooks.checkpont.interval=1':
        "must be a dict with a type, but is .* Did you mean 'checkpoint'",
    'randomness.zzz=1': 'It may have deterministic, diff_rank_seed, seed',
    # Values.
    'default_hooks.zzz=1': 'default_hooks.zzz must be a dict with a type, but is 1',
    "train_cfg.max_epochs='3'": r"train_cfg.max_epochs: it is a number \(8\), but got '3'",
    'param_scheduler.1.eta_min=abc': r'it is a number \(1e-05\), but got .abc',
    'param_scheduler.1.begin=-1': 'must be an int of at least 0',
    'optim_wrapper.paramwise_cfg.norm_decay_mult=-1': 'must be a number of at least 0',
    'train_dataloader.sampler.shuffle=no': r'it is True or False \(True\), but got .no',
    'train_cfg.max_epochs=2.5': 'must be an int',
    'train_cfg.val_interval=0': 'must be an int of at least 1',
    'train_dataloader.batch_size=0': 'must be an int of at least 1',
    'val_dataloader.num_workers=-1': 'must be an int of at least 0',
    'default_hooks.checkpoint.interval=-2': 'must be an int of at least -1',
    'default_hooks.checkpoint.max_keep_ckpts=abc': r'it is a number \(-1\), but got .abc',
    'default_hooks.logger.interval=0': 'must be an int of at least 1',
    'model.data_preprocessor.num_classes=[4]': 'must be an int',
    'optim_wrapper.accumulative_counts=0': 'must be an int of at least 1',
    'optim_wrapper.optimizer.lr=1e-3x': 'it is a number',
    'optim_wrapper.optimizer.lr=nan': 'must be a number',
    'optim_wrapper.optimizer.weight_decay=-1': 'must be a number of at least 0',
    'optim_wrapper.clip_grad.max_norm=0': 'must be a number above 0',
    'log_level=LOUD': "log_level must be one of .*'INFO'.*, but is 'LOUD'",
    'randomness.seed=-1': 'must be an int of at least 0',
    'env_cfg=None': 'config: env_cfg must be a dict, but is None',
    'randomness=None': 'config: randomness must be a dict, but is None',
    'model=None': 'config: model must be a dict, but is None',
    'val_cfg=None': 'val_dataloader and val_evaluator are set, but not val_cfg. Set all of them',
    'optim_wrapper=None': 'train_dataloader and train_cfg are set, but not optim_wrapper',
    'model_wrapper_cfg.type=ElasticDistributedDataParallel':
        "there is no 'Ela.*'. Did you mean 'mmpretrain.ElasticDistributedDataParallel'",
    # Places.
    'batchsize=64': "no key 'batchsize'.* Did you mean 'train_dataloader.batch_size'",
    'max_epochs=3': "Did you mean 'train_cfg.max_epochs'",
    'lr=1': "Did you mean 'optim_wrapper.optimizer.lr'",
    'trian_cfg.max_epochs=3': "Did you mean 'train_cfg'",
    'load_form=a.pth': "Did you mean 'load_from'",
    'zzz=1': "has no key 'zzz', so that it would have no effect.$",
    'data_root=x': "Did you mean 'train_dataloader.dataset.data_root'",
    'custom_hooks.7.num_stages=2': 'custom_hooks is a list of 2',
    'custom_hooks.first.num_stages=2': 'custom_hooks is a list of 2',
    'custom_hooks.0.num_stages.a=2': "custom_hooks.0.num_stages is 4, so that it has no 'a'",
    'model.data_preprocessor.mean.0=3': 'mean can only be set as a whole, such as',
    'optim_wrapper.optimizer=SGD': 'is a dict, but got .SGD.. Set .*optim_wrapper.optimizer.type',
}


@pytest.mark.parametrize('option', MISTAKES)
def test_mistakes(micro, option):
    key, _, value = option.partition('=')
    cfg, options = micro.copy(), {key: parse_value(value)}
    with pytest.raises(ValueError, match=MISTAKES[option]):
        check_options(cfg, options, for_folders=False)
        cfg.merge_from_dict(as_whole(cfg, options))
        check_keys(cfg)
        check_parts(cfg)


@pytest.mark.parametrize('options', [
    {'val_cfg': None, 'val_dataloader': None, 'val_evaluator': None},
    {'param_scheduler': None}, {'optim_wrapper.clip_grad': None},
    {'custom_hooks.0.search': dict(type='OneShotSearch')}, {'compile': True}, {'sync_bn': 'torch'},
    {'auto_scale_lr.base_batch_size': 8}, {'resume': True}, {'env_cfg.dist_cfg.backend': 'gloo'},
    {'default_hooks.visualization.type': 'VisualizationHook'},
    {'optim_wrapper.paramwise_cfg.custom_keys': {'.cls_token': dict(decay_mult=0.)}},
    {'optim_wrapper.constructor': 'MyConstructor', 'optim_wrapper.paramwise_cfg.mine': 1},
    {'train_dataloader.dataset.pipeline.1.scale': 32}, {'train_cfg.dynamic_intervals': [(1, 2)]},
    {'param_scheduler': dict(type='MultiStepLR', milestones=[1], gamma=0.1)},
    {'model.backbone.arch': 'deit-tiny'},
    {'optim_wrapper.paramwise_cfg.custom_keys': {'bn': dict(lars_exclude=True, lr=0.1)}},
    {'param_scheduler': dict(type='CosineAnnealingParamScheduler', param_name='weight_decay')},
    {'train_dataloader.collate_fn': dict(type=padded_collate, size=3)},
    {'train_cfg._scope_': 'autoprog_mm', 'env_cfg._scope_': 'autoprog_mm'}])
def test_what_is_no_mistake(micro, options, log):
    cfg = micro.copy()
    check_options(cfg, options, for_folders=False)
    cfg.merge_from_dict(as_whole(cfg, options))
    check_keys(cfg)
    check_parts(cfg)
    assert log == []


def test_name_in_place_of_a_number(micro):
    cfg = micro.copy()
    cfg.optim_wrapper.loss_scale = 512.
    check_options(cfg, {'optim_wrapper.loss_scale': 'dynamic'}, for_folders=False)


def test_option_beside_the_wrapper_that_has_it(micro, log):
    cfg = micro.copy()
    cfg.find_unused_parameters = True
    check_parts(cfg)
    assert log == []
    cfg.model_wrapper_cfg = dict(type='mmpretrain.ElasticDistributedDataParallel')
    check_parts(cfg)
    assert len(log) == 1 and 'Set model_wrapper_cfg.find_unused_parameters=True' in log[0]


def test_dict_in_place_of_another_thing(micro):
    cfg = micro.copy()
    options = {'custom_hooks.0.search': dict(type='OneShotSearch', epochs=1),
               'param_scheduler': dict(type='PolyLR', end=8), 'train_cfg': dict(max_epochs=3)}
    cfg.merge_from_dict(as_whole(cfg, options))
    assert cfg.custom_hooks[0].search == dict(type='OneShotSearch', epochs=1)
    assert cfg.param_scheduler == dict(type='PolyLR', end=8)
    # A dict is merged into a dict.
    assert cfg.train_cfg == dict(type='ResumableTrainLoop', max_epochs=3, val_interval=1)


def test_variables_of_the_file(micro, log):
    """They stay allowed there, but to set them on the command line changes nothing."""
    cfg = Config({**micro.to_dict(), 'max_epochs': 8, 'train_pipeline':
                  micro.train_dataloader.dataset.pipeline})
    check_keys(cfg)
    assert log == []
    for key, place in (('max_epochs', 'train_cfg.max_epochs'),
                       ('train_pipeline.0.type', 'train_dataloader.dataset.pipeline')):
        with pytest.raises(ValueError, match=f'is a variable .*, which is read before. Set {place} '
                                             'instead'):
            check_options(cfg, {key: 3}, for_folders=False)
    check_options(cfg, {'my_setting': 4}, for_folders=False)
    assert len(log) == 1 and 'Only a part of your own that looks into the config sees' in log[0]


def test_keys_of_a_folder_of_images(micro):
    options = {'data_root': 'x', 'val_share': 0.2}
    check_options(micro, options, for_folders=True)
    with pytest.raises(ValueError, match='no key'):
        check_options(micro, options, for_folders=False)
    with pytest.raises(ValueError, match="Did you mean 'data_root'"):
        check_options(micro, {'data_rot': 'x'}, for_folders=True)


@pytest.mark.parametrize('name, meant', [
    ('optim_wraper', 'optim_wrapper'), ('param_schedulers', 'param_scheduler'),
    ('lr_config', 'param_scheduler'), ('optimizer', 'optim_wrapper')])
def test_names_that_look_like_a_key(micro, log, name, meant):
    cfg = Config({**micro.to_dict(), name: dict(type='SGD', lr=1.)})
    check_keys(cfg)
    assert len(log) == 1 and f'nothing reads {name!r}' in log[0] and f'mean {meant!r}?' in log[0]


def test_pipeline_that_nothing_uses(micro, log):
    """One that a config has set anew, for a base that has used the old one already."""
    pipeline = micro.train_dataloader.dataset.pipeline
    check_keys(Config({**micro.to_dict(), 'train_pipeline': pipeline, 'other_pipeline': [1]}))
    assert log == []
    check_keys(Config({**micro.to_dict(), 'train_pipeline': pipeline[:-1]}))
    assert len(log) == 1 and 'nothing uses train_pipeline. If it is to be that of tr' in log[0]


def test_a_test_does_not_look_at_training(micro):
    """Configs of older runs can be tested, whatever they have in vain."""
    cfg = Config({**micro.to_dict(), 'optim_wrapper': dict(clip_grad=dict(max_nrm=1))})
    with pytest.raises(ValueError, match='max_nrm'):
        check_keys(cfg)
    check_keys(cfg, testing=True)
    cfg.randomness.sed = 1
    with pytest.raises(ValueError, match='randomness.sed'):
        check_keys(cfg, testing=True)


@pytest.mark.parametrize('path', sorted(
    path.relative_to(CONFIGS).as_posix() for folder in ('autoprog', 'baseline', 'prog')
    for path in (CONFIGS / folder).glob('*.py')))
def test_own_configs_have_no_mistakes(path, log):
    check_keys(read_config(str(CONFIGS / path)))
    assert log == []
