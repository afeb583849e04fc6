# Copyright (c) the autoprog_mm authors. All rights reserved.
"""The parts of a stock config, each changed in place into one that can grow.

Each function changes the plain dict of a config, and raises a
:class:`UserError` for what can't grow.
"""
from copy import deepcopy
from typing import Any, Iterator, Optional

from ..launch.dataloaders import leaf_datasets
from ..utils.errors import UserError

_PROGRESSIVE = {
    'RandomResizedCrop': 'ProgressiveRandomResizedCrop',
    'RandAugment': 'ProgressiveRandAugment',
    'RandomErasing': 'ProgressiveRandomErasing',
}
_OPTIM_WRAPPERS = {
    'OptimWrapper': 'MoGrowOptimWrapper',
    'AmpOptimWrapper': 'AmpMoGrowOptimWrapper',
}
# Decay of the momentum copy that scores candidates, and defaults of mmengine's
# EMAHook.
_SCORING_DECAY = 0.998
_EMA_TYPE, _EMA_MOMENTUM = 'ExponentialMovingAverage', 0.0002


def _kind(part: dict, default: Optional[str] = None) -> Optional[str]:
    """The type without a scope."""
    kind = part.get('type', default)
    return kind.rpartition('.')[2] if isinstance(kind, str) else kind


def _rename(part: dict, kind: str) -> None:
    """Give a part one of our types, which are in mmpretrain's scope."""
    part['type'] = f'mmpretrain.{kind}' if '.' in str(part.get('type')) else kind


def check_runner(cfg: dict) -> None:
    """Check that a config trains, and that its runner knows of growth."""
    missing = [name for name in ('train_cfg', 'train_dataloader', 'optim_wrapper')
               if not cfg.get(name)]
    if missing:
        raise UserError(
            f'The config does not say how to train: it has no {" and no ".join(missing)}.')
    if cfg.get('default_scope') != 'mmpretrain':
        raise UserError(
            f"default_scope must be 'mmpretrain', but is {cfg.get('default_scope')!r}: a config "
            'of another library cannot be converted.')
    if cfg.get('runner_type', 'Runner') != 'Runner' or cfg.get('strategy') is not None:
        raise UserError(
            f'runner_type ({cfg.get("runner_type")!r}) and strategy must not be set: what '
            'DeepSpeed and FSDP do to a model knows nothing of growth. Take the config without '
            'them; several GPUs are used all the same.')


def convert_model(cfg: dict) -> None:
    """Take the elastic backbone and preprocessor in place of the stock ones."""
    model = cfg.get('model') or {}
    if _kind(model) != 'ImageClassifier':
        raise UserError(
            f"model.type must be 'ImageClassifier', but is {model.get('type')!r}: only "
            'supervised classification is converted.')
    backbone = model.get('backbone') or {}
    kind = _kind(backbone)
    if str(kind).startswith('Elastic'):
        raise UserError(f'model.backbone.type is {kind!r}: the config is one of AutoProg already.')
    if kind != 'VisionTransformer':
        raise UserError(
            f"model.backbone.type must be 'VisionTransformer', which ElasticDeiT can take the "
            f'place of, but is {backbone.get("type")!r}. Another backbone has to be made elastic '
            'first, by autoprog_mm.models.ElasticBackbone.')
    _rename(backbone, 'ElasticDeiT')

    inner = 'data_preprocessor' in model  # then mmengine takes no other
    owner = model if inner else cfg
    preprocessor = owner.get('data_preprocessor') or {}
    if _kind(preprocessor, 'ClsDataPreprocessor') != 'ClsDataPreprocessor':
        raise UserError(
            f"{'model.' if inner else ''}data_preprocessor.type must be 'ClsDataPreprocessor', "
            f'which ElasticDataPreprocessor can take the place of, but is '
            f'{preprocessor["type"]!r}.')
    _rename(preprocessor, 'ElasticDataPreprocessor')
    owner['data_preprocessor'] = preprocessor


def convert_loop(cfg: dict) -> None:
    """Take the loop that can be resumed at any step."""
    train_cfg = cfg['train_cfg']
    by_epoch = train_cfg.pop('by_epoch', 'type' in train_cfg or 'max_epochs' in train_cfg)
    kind = _kind(train_cfg, 'EpochBasedTrainLoop' if by_epoch else 'IterBasedTrainLoop')
    if kind not in ('EpochBasedTrainLoop', 'ResumableTrainLoop'):
        raise UserError(
            f'train_cfg must be that of an EpochBasedTrainLoop, for stages are counted in epochs, '
            f'but is that of {kind}. Use train_cfg=dict(by_epoch=True, max_epochs=...).')
    _rename(train_cfg, 'ResumableTrainLoop')
    cfg['train_cfg'] = {'type': train_cfg.pop('type'), **train_cfg}


def convert_data(cfg: dict, resolution: int) -> None:
    """Take the progressive transforms in all training pipelines."""
    dataset = cfg['train_dataloader']['dataset']
    stock = deepcopy(dataset.get('pipeline'))
    for key, leaf in leaf_datasets('train_dataloader.dataset', dataset):
        where, steps = f'{key}.pipeline', list(_steps(leaf.get('pipeline')))
        crops = [step for step in steps if _kind(step) == 'RandomResizedCrop']
        if len(crops) != 1:
            raise UserError(
                f"{where} needs exactly one RandomResizedCrop, which sets the stage's size, but "
                f'has {len(crops)} among {[step.get("type") for step in steps]}.')
        scale = crops[0].get('scale')
        if scale not in (resolution, (resolution, ) * 2, [resolution] * 2):
            raise UserError(
                f'scale of RandomResizedCrop in {where} ({scale}) must be img_size of the '
                f'backbone ({resolution}).')
        for step in steps:
            if _kind(step) in _PROGRESSIVE:
                _rename(step, _PROGRESSIVE[_kind(step)])
    # The variable of this name that most configs have, of which mmengine says
    # where it comes from.
    if stock is not None and _unscoped(cfg.get('train_pipeline')) == _unscoped(stock):
        cfg['train_pipeline'] = deepcopy(dataset['pipeline'])


def _unscoped(part: Any) -> Any:
    if isinstance(part, dict):
        return {key: _unscoped(value) for key, value in part.items() if key != '_scope_'}
    return [_unscoped(item) for item in part] if isinstance(part, list) else part


def _steps(part: Any) -> Iterator[dict]:
    """The transforms of a pipeline, those inside of others too."""
    if isinstance(part, dict):
        if 'type' in part:
            yield part
        yield from _steps(part.get('transforms'))
    elif isinstance(part, (list, tuple)):
        for step in part:
            yield from _steps(step)


def convert_hooks(cfg: dict) -> Optional[dict]:
    """Take an EMAHook out, and set the hooks that all of our configs have.

    Returns:
        dict | None: The EMAHook.
    """
    ema, others = None, []
    for hook in cfg.get('custom_hooks') or []:
        if _kind(hook) == 'EMAHook':
            ema = hook
        elif _kind(hook) == 'SwitchRecipeHook':
            raise UserError(
                'custom_hooks has a SwitchRecipeHook, whose new pipelines would not follow the '
                'stages. Leave it out.')
        else:
            others.append(hook)
    cfg['custom_hooks'] = others
    hooks = cfg.setdefault('default_hooks', {})
    checkpoint = hooks.get('checkpoint') or {}
    if _kind(checkpoint, 'CheckpointHook') not in ('CheckpointHook', 'SafeCheckpointHook'):
        raise UserError(
            f"default_hooks.checkpoint.type must be 'CheckpointHook', but is "
            f'{checkpoint["type"]!r}.')
    _rename(checkpoint, 'SafeCheckpointHook')
    hooks.update(checkpoint=checkpoint)
    hooks.setdefault('guard', dict(type='RunGuardHook'))
    if cfg.get('compile'):
        hooks.setdefault('compile', dict(type='CompileHook'))
    info = hooks.get('runtime_info') or {}
    if _kind(info, 'RuntimeInfoHook') == 'RuntimeInfoHook':
        _rename(info, 'LateRuntimeInfoHook')
        hooks.update(runtime_info=info)
    return ema


def convert_optim_wrapper(cfg: dict, ema: Optional[dict]) -> None:
    """Take the wrapper that grows, with the momentum of an EMAHook that was there."""
    wrapper = cfg['optim_wrapper']
    kind = _kind(wrapper, 'OptimWrapper')
    if kind not in _OPTIM_WRAPPERS:
        raise UserError(
            f'optim_wrapper.type must be one of {sorted(_OPTIM_WRAPPERS)}, which have '
            f'counterparts that can grow, but is {wrapper.get("type")!r}.')
    _rename(wrapper, _OPTIM_WRAPPERS[kind])
    # Others, such as that of layer-wise learning rates, do what they do.
    if _kind(dict(type=wrapper.get('constructor'))) in (None, 'DefaultOptimWrapperConstructor'):
        wrapper['constructor'] = 'MergedOptimWrapperConstructor'
    if ema is not None and _kind(dict(type=ema.get('ema_type', _EMA_TYPE))) == _EMA_TYPE:
        momentum = ema.get('momentum', _EMA_MOMENTUM) / ema.get('interval', 1)
        wrapper['ema_decays'] = (_SCORING_DECAY, round(1 - momentum, 12))


def add_runtime(cfg: dict) -> None:
    """Set what several GPUs and the log need, and import this package."""
    wrapper = cfg.get('model_wrapper_cfg') or {}
    if _kind(wrapper, 'MMDistributedDataParallel') != 'MMDistributedDataParallel':
        raise UserError(
            f'model_wrapper_cfg.type ({wrapper["type"]!r}) must not be set: it cannot change what '
            'it reduces when the network grows.')
    # mmengine finds it under its full name only.
    cfg['model_wrapper_cfg'] = dict(type='mmpretrain.ElasticDistributedDataParallel')
    processor = cfg.get('log_processor') or {}
    if _kind(processor, 'LogProcessor') == 'LogProcessor':
        _rename(processor, 'AutoProgLogProcessor')
        cfg['log_processor'] = processor
    imports = dict(cfg.get('custom_imports') or {})
    names = imports.get('imports') or []
    names = [names] if isinstance(names, str) else list(names)
    if 'autoprog_mm' not in names:
        imports['imports'] = ['autoprog_mm', *names]
    cfg['custom_imports'] = imports
