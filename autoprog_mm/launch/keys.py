# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Keys that nothing would read, and values that nothing would check before a run trains.

Most parts of a config refuse an option that they don't know when they are built.
Here are the places where it would have no effect, or end the run later.
"""
import difflib
import inspect
import logging
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Callable, Dict, Iterable, Iterator, Mapping, Optional, Set, Tuple

import torch
from mmengine.config import Config
from mmengine.dist import init_dist
from mmengine.logging import print_log
from mmengine.registry import FUNCTIONS, MODEL_WRAPPERS
from mmengine.runner import Runner
from mmengine.utils import import_modules_from_strings
from mmengine.utils.dl_utils import set_multi_processing
from mmpretrain.registry import LOOPS, PARAM_SCHEDULERS
from mmpretrain.registry import MODEL_WRAPPERS as OUR_MODEL_WRAPPERS
from torch.utils.data import DataLoader

from ..utils.checks import check_int, check_number
from ..utils.errors import UserError
from ..utils.names import did_you_mean
from .errors import arguments_of

# What Runner.from_cfg and the runner itself read, besides the runner's arguments.
READ = {*inspect.signature(Runner.__init__).parameters} - {'self', 'cfg'} | {
    'activation_checkpointing', 'compile', 'custom_imports', 'efficient_conv_bn_eval',
    'find_unused_parameters', 'model_wrapper_cfg', 'runner_type', 'strategy', 'sync_bn',
    'tta_model', 'tta_pipeline'}
# Of a config for a folder of images: read by launch/own_data.py.
READ_FOR_FOLDERS = {'classes', 'data_root', 'image_size', 'patch_size', 'val_share'}
# mmcls before its 1.0, where they mean what now has another name.
_OLD = dict(
    checkpoint_config='default_hooks.checkpoint', data='train_dataloader', dist_params='env_cfg',
    evaluation='val_evaluator', fp16='optim_wrapper', log_config='default_hooks.logger',
    lr_config='param_scheduler', optimizer='optim_wrapper', optimizer_config='optim_wrapper',
    runner='train_cfg')
# Those of which paramwise_cfg is known.
_CONSTRUCTORS = ('', 'DefaultOptimWrapperConstructor', 'LearningRateDecayOptimWrapperConstructor',
                 'MergedOptimWrapperConstructor')
_TOGETHER = (('train_dataloader', 'train_cfg', 'optim_wrapper'),
             ('val_dataloader', 'val_cfg', 'val_evaluator'),
             ('test_dataloader', 'test_cfg', 'test_evaluator'))
_DEFAULT_HOOKS = ('checkpoint', 'logger', 'param_scheduler', 'runtime_info', 'sampler_seed',
                  'timer')
_NEAR = 0.9  # of two names, where one is most likely the other, mistyped
_ONLY_TRAINING = ('auto_scale_lr', 'default_hooks', 'optim_wrapper', 'param_scheduler', 'train_',
                  'val_')


def _of(*functions: Callable, more: Iterable[str] = ()) -> Set[str]:
    names = {name for function in functions for name in arguments_of(function)}
    return names - {'self', 'args', 'kwargs'} | {*more}


def _loop(default: Callable[[dict], str], cfg: dict) -> Optional[Set[str]]:
    kind = cfg.get('type', default(cfg))
    loop = LOOPS.get(kind) if isinstance(kind, str) else kind
    return None if loop is None else _of(loop, more=('by_epoch', 'type')) - {
        'dataloader', 'evaluator', 'runner'}


def _scheduler(cfg: dict) -> Optional[Set[str]]:
    kind = cfg.get('type')
    kind = PARAM_SCHEDULERS.get(kind) if isinstance(kind, str) else kind
    # Its builder takes over more of an epoch's scheduler.
    return None if kind is None else _of(
        kind, more=('type', '_scope_', 'convert_to_iter_based')) - {'optimizer'}


def _clip(cfg: dict) -> Set[str]:
    kind = cfg.get('type', 'norm')
    return _of(getattr(torch.nn.utils, f'clip_grad_{kind}_', torch.nn.utils.clip_grad_norm_),
               more=('type', )) - {'parameters'}


def _collate(cfg: dict) -> Optional[Set[str]]:
    kind = cfg.get('type')
    function = FUNCTIONS.get(kind) if isinstance(kind, str) else kind
    return None if function is None else _of(function, more=('type', ))


def _custom_keys(cfg: dict) -> Set[str]:
    # What has another name goes to the optimizer, such as lars_exclude or betas.
    known = {'decay_mult', 'lr_mult'}
    return known | {key for key in cfg if not did_you_mean(key, known)}


def _arch(cfg: dict) -> Optional[Set[str]]:
    # Of mmpretrain's VisionTransformer; those of other backbones are theirs.
    known = {'embed_dims', 'num_layers', 'num_heads', 'feedforward_channels'}
    return known if known <= {*cfg} else None


def _check_level(name: str, value: object) -> None:
    if value not in logging._nameToLevel and not isinstance(value, int):
        raise UserError(f'{name} must be one of {sorted(logging._nameToLevel)}, but is {value!r}.')


_DATALOADER: Set[str] = _of(DataLoader, more=('num_batch_per_epoch', ))
# Names that a dict in this place may have, or a function of it that says so; None is any.
_KNOWN: Dict[str, Any] = {
    'auto_scale_lr': {'base_batch_size', 'enable'},
    'custom_imports': _of(import_modules_from_strings),
    'env_cfg': {'cudnn_benchmark', 'dist_cfg', 'float32_matmul_precision', 'mp_cfg',
                'resource_limit'},
    'env_cfg.dist_cfg': _of(init_dist, torch.distributed.init_process_group, more=('port', )),
    'env_cfg.mp_cfg': _of(set_multi_processing) - {'distributed'},
    'model.backbone.arch': _arch,
    'optim_wrapper.clip_grad': _clip,
    'optim_wrapper.paramwise_cfg': {
        'bias_decay_mult', 'bias_lr_mult', 'bypass_duplicate', 'custom_keys',
        'dcn_offset_lr_mult', 'dwconv_decay_mult', 'flat_decay_mult', 'layer_decay_rate',
        'norm_decay_mult'},
    'optim_wrapper.paramwise_cfg.custom_keys.*': _custom_keys,
    'param_scheduler': _scheduler,
    'param_scheduler.*': _scheduler,
    'randomness': _of(Runner.set_randomness),
    'test_cfg': partial(_loop, lambda cfg: 'TestLoop'),
    'test_dataloader': _DATALOADER,
    'train_cfg': partial(_loop, lambda cfg: (
        'EpochBasedTrainLoop' if cfg.get('by_epoch', True) else 'IterBasedTrainLoop')),
    'train_dataloader': _DATALOADER,
    'val_cfg': partial(_loop, lambda cfg: 'ValLoop'),
    'val_dataloader': _DATALOADER,
    '*_dataloader.collate_fn': _collate,
}
_OR_NEVER = partial(check_int, least=-1)  # as mmengine has it
# Values that are not None.
_VALUES: Dict[str, Callable] = {
    '*_dataloader.batch_size': check_int,
    '*_dataloader.num_workers': partial(check_int, least=0),
    'auto_scale_lr.base_batch_size': check_int,
    'default_hooks.checkpoint.interval': _OR_NEVER,
    'default_hooks.checkpoint.max_keep_ckpts': _OR_NEVER,
    'default_hooks.logger.interval': check_int,
    'model.data_preprocessor.num_classes': check_int,
    'data_preprocessor.num_classes': check_int,
    'optim_wrapper.accumulative_counts': check_int,
    'optim_wrapper.clip_grad.max_norm': partial(check_number, above=True),
    'optim_wrapper.optimizer.lr': check_number,
    'optim_wrapper.paramwise_cfg.*_mult': check_number,
    'param_scheduler.*.begin': partial(check_int, least=0),
    'param_scheduler.*.eta_min': check_number,
    'optim_wrapper.optimizer.weight_decay': check_number,
    'log_level': _check_level,
    'randomness.seed': partial(check_int, least=0, most=2**32 - 1),
    'train_cfg.max_epochs': check_int,
    'train_cfg.max_iters': check_int,
    'train_cfg.val_begin': partial(check_int, least=0),
    'train_cfg.val_interval': check_int,
}


def check_keys(cfg: Config, testing: bool = False) -> None:
    """Check the places of a config that no part checks when it is built.

    Args:
        cfg (Config): A whole config.
        testing (bool): Whether it is to test a checkpoint; what training alone
            needs is not looked at. Defaults to False.

    Raises:
        UserError: For a key that nothing would read, with the one that was
            meant, if there is one, and for a value that can't be.
    """
    whole = cfg.to_dict()
    for name, value in whole.items():
        _warn_of_name(name, value, whole)
    constructor = (whole.get('optim_wrapper') or {}).get('constructor') or ''
    constructor = constructor.rpartition('.')[2]
    for path, value in walk(whole):
        if testing and path.startswith(_ONLY_TRAINING):
            continue
        hook = path.partition('default_hooks.')[2]
        if hook and '.' not in hook and value is not None and (
                not isinstance(value, dict) or 'type' not in value):
            others = {*whole['default_hooks'], *_DEFAULT_HOOKS} - {hook}
            raise UserError(f'{path} must be a dict with a type, but is {value!r}.'
                            f'{did_you_mean(hook, others)}')
        if not isinstance(value, dict):
            for pattern, check in _VALUES.items():
                if value is not None and fnmatchcase(path, pattern):
                    check(path, value)
            continue
        if path.startswith('optim_wrapper.paramwise_cfg') and constructor not in _CONSTRUCTORS:
            continue
        for pattern, known in _KNOWN.items():
            if not fnmatchcase(path, pattern):
                continue
            known = known(value) if callable(known) else known
            for key in sorted({*value} - known - {'_scope_'}) if known is not None else ():
                names = did_you_mean(key, known) or f' It may have {", ".join(sorted(known))}.'
                raise UserError(f'{path}.{key}: {path} has no such key.{names}')


def check_parts(cfg: Config) -> None:
    """Check that what a runner needs is there, and what belongs together.

    Args:
        cfg (Config): A whole config.

    Raises:
        UserError: Names what is missing.
    """
    for name in ('model', 'env_cfg', 'randomness'):
        if not isinstance(cfg.get(name, {} if name != 'model' else None), dict):
            raise UserError(f'config: {name} must be a dict, but is {cfg.get(name)!r}.')
    for names in _TOGETHER:
        there = [name for name in names if cfg.get(name) is not None]
        if there and len(there) < len(names):
            raise UserError(
                f'config: {" and ".join(there)} {"is" if len(there) == 1 else "are"} set, but not '
                f'{" and ".join(name for name in names if name not in there)}. Set all of them, or '
                'none.')
    wrapper = cfg.get('model_wrapper_cfg') or {}
    kind = wrapper.get('type')
    if isinstance(kind, str) and MODEL_WRAPPERS.get(kind) is None:  # mmengine would not say so
        ours = [f'mmpretrain.{name}' for name in OUR_MODEL_WRAPPERS.module_dict]
        raise UserError(f'model_wrapper_cfg.type: there is no {kind!r}.{did_you_mean(kind, ours)}')
    if wrapper and cfg.get('find_unused_parameters'):
        print_log('config: find_unused_parameters has no effect beside model_wrapper_cfg. Set '
                  'model_wrapper_cfg.find_unused_parameters=True.', 'current', logging.WARNING)


def _warn_of_name(name: str, value: Any, cfg: Mapping[str, object]) -> None:
    """Warn of a variable that looks like a key that is read."""
    near = None
    if name.endswith('_pipeline') and name != 'tta_pipeline' and isinstance(value, list):
        loader = f'{name[:-len("_pipeline")]}_dataloader'
        _warn_of_pipeline(name, value, cfg, loader)
    elif name in _OLD and not any(other == value for path, other in walk(cfg) if path != name):
        near = _OLD[name]
    elif name not in READ:
        near = next(iter(difflib.get_close_matches(name, READ, n=1, cutoff=_NEAR)), None)
    if near and near != name:
        print_log(f'config: nothing reads {name!r}, unless it is a variable of yours. Did you mean '
                  f'{near!r}?', 'current', logging.WARNING)


def _warn_of_pipeline(name: str, pipeline: list, cfg: Mapping[str, object], loader: str) -> None:
    """Warn of a pipeline that a config has set anew, while its base's is used."""
    if isinstance(cfg.get(loader), dict) and not any(
            value == pipeline for path, value in walk(cfg) if path != name):
        print_log(f'config: nothing uses {name}. If it is to be that of {loader}, set '
                  f'{loader}=dict(dataset=dict(pipeline={name})), too.', 'current', logging.WARNING)


def walk(part: Any, path: str = '') -> Iterator[Tuple[str, Any]]:
    """All that is in a part of a config, with dotted paths.

    Args:
        part (dict | list | tuple): The part.
        path (str): Its own place. Defaults to '', the whole config.

    Yields:
        tuple[str, Any]: Place and value, also of what is inside of others.
    """
    items = part.items() if isinstance(part, dict) else enumerate(part)
    for key, value in items:
        place = f'{path}.{key}' if path else str(key)
        yield place, value
        if isinstance(value, (dict, list, tuple)):
            yield from walk(value, place)
