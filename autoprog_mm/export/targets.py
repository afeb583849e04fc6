# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What timm and mmpretrain call our models and their parameters."""
from copy import deepcopy
from inspect import signature
from typing import Callable, Dict, List, NamedTuple, NoReturn, Optional, Sequence, Tuple

import mmpretrain.models
import timm
import torch.nn as nn

from ..models import ElasticDeiT, ElasticVOLO
from ..models.timm_names import DEIT_NAMES, VOLO_NAMES, to_timm
from ..utils.errors import UserError
from .plain_model import PlainModel

_TIMM_DEITS = {(192, 12, 3): 'deit_tiny', (384, 12, 6): 'deit_small', (768, 12, 12): 'deit_base'}
_TIMM_EPS = 1e-6
_TIMM_LAYER = dict(  # with what has no effect on scores
    num_fcs=2, ffn_type='origin', act_cfg=dict(type='GELU'), drop_rate=None, attn_drop_rate=None,
    drop_path_rate=None)
_VOLO_DEFAULTS = dict(mlp_ratio=3., stem_hidden_dim=64)

_BUILDERS: Dict[str, Callable] = {
    'timm.create_model': timm.create_model,
    'timm.models.vision_transformer.VisionTransformer':
    timm.models.vision_transformer.VisionTransformer,
    'timm.models.volo.VOLO': timm.models.volo.VOLO,
    'mmpretrain.models.build_classifier': mmpretrain.models.build_classifier,
}


class Target(NamedTuple):
    """A model of another library, and what its parameters are called.

    Args:
        builder (str): The library's function, with its module.
        args (tuple): Its arguments.
        kwargs (dict): Its keyword arguments.
        names (Sequence[tuple[str, str]]): Patterns of our parameters' names,
            and what replaces them, one after the other.
    """

    builder: str
    args: tuple
    kwargs: dict
    names: Sequence[Tuple[str, str]] = ()

    def rename(self, name: str) -> str:
        """The library's name of one of our parameters."""
        return to_timm(name, self.names)

    def build(self) -> nn.Module:
        """Build the library's model, with random weights."""
        # mmpretrain's classes write into the dicts that they get.
        return _BUILDERS[self.builder](*deepcopy(self.args), **self.kwargs)

    def code(self, path: str) -> List[str]:
        """Lines of Python that build it and load a file into it."""
        arguments = [repr(a) for a in self.args] + [f'{k}={v!r}' for k, v in self.kwargs.items()]
        package, entry = ('timm', '') if self.builder.startswith('timm') else (
            'mmpretrain.models', "['state_dict']")
        return [
            f'import torch, {package}; model = {self.builder}({", ".join(arguments)})',
            f'model.load_state_dict(torch.load({path!r}, weights_only=True){entry})'
        ]


def find_target(source: PlainModel, format: str) -> Target:
    """The model of another library that equals ours.

    Args:
        source (PlainModel): Our model.
        format (str): ``'timm'`` or ``'mmpretrain'``.

    Returns:
        Target: The model.

    Raises:
        ValueError: If the library can't represent an option; names it.
    """
    return _TARGETS[type(source.model.backbone), format](source)


def _timm_deit(source: PlainModel) -> Target:
    backbone, options = source.model.backbone, source.backbone
    pooled = options.get('out_type', 'cls_token') == 'avg_featmap'
    if pooled and options.get('final_norm', True):
        _refuse('timm', 'backbone', dict(out_type='avg_featmap', final_norm=True))
    layers = options.get('layer_cfgs') or {}
    for layer in [layers] if isinstance(layers, dict) else layers:
        for key, value in layer.items():
            if key not in _TIMM_LAYER or _TIMM_LAYER[key] not in (None, value):
                _refuse('timm', 'backbone.layer_cfgs', {key: value})
    if options.get('patch_cfg'):
        _refuse('timm', 'backbone', dict(patch_cfg=options['patch_cfg']))
    if {m.eps for m in backbone.modules() if isinstance(m, nn.LayerNorm)} != {_TIMM_EPS}:
        _refuse('timm', 'backbone', dict(norm_cfg=options['norm_cfg']),
                f', since its eps is {_TIMM_EPS}')
    if source.head.get('hidden_dim') is not None:
        _refuse('timm', 'head', dict(hidden_dim=source.head['hidden_dim']))

    width, hidden = backbone.embed_dims, backbone.arch_settings['feedforward_channels']
    # timm cuts width * mlp_ratio down to an int.
    ratio = hidden / width if int(width * (hidden / width)) == hidden else (hidden + .5) / width
    shape = dict(
        img_size=backbone.full_subnet.resolution, patch_size=backbone.resolution_step,
        embed_dim=width, depth=backbone.num_layers,
        num_heads=backbone.arch_settings['num_heads'])
    rest = _not_default(
        timm.models.vision_transformer.VisionTransformer, mlp_ratio=ratio,
        in_chans=options.get('in_channels', 3), num_classes=source.head['num_classes'],
        qkv_bias=options.get('qkv_bias', True), pre_norm=options.get('pre_norm', False),
        init_values=options.get('layer_scale_init_value') or None,
        final_norm=pooled or options.get('final_norm', True),
        class_token=options.get('with_cls_token', True), global_pool='avg' if pooled else 'token')
    stem = _TIMM_DEITS.get((width, backbone.num_layers, shape['num_heads']))
    name = f'{stem}_patch{shape["patch_size"]}_{shape["img_size"]}'
    if timm.is_model(name) and 'mlp_ratio' not in rest:
        return Target('timm.create_model', (name, ), rest, DEIT_NAMES)
    return Target('timm.models.vision_transformer.VisionTransformer', (), {**shape, **rest},
                  DEIT_NAMES)


def _mmpretrain_deit(source: PlainModel) -> Target:
    backbone = {key: value for key, value in source.backbone.items() if key != 'out_indices'}
    return _mmpretrain(
        source, type='ImageClassifier', backbone=dict(type='VisionTransformer', **backbone),
        head=dict(type='VisionTransformerClsHead', **source.head))


def _volo(source: PlainModel) -> Tuple[Optional[str], dict, dict]:
    """Name of the arch if it is one of timm's, its settings, and what is not timm's default."""
    zoo = {name: {**_VOLO_DEFAULTS, **arch} for name, arch in ElasticVOLO.arch_zoo.items()}
    arch = source.backbone.get('arch', 'd1')
    settings = zoo[arch.lower()] if isinstance(arch, str) else {**_VOLO_DEFAULTS, **arch}
    settings = {key: tuple(value) if isinstance(value, list) else value
                for key, value in settings.items()}
    rest = _not_default(
        timm.models.volo.VOLO, patch_size=source.backbone.get('patch_size', 8),
        in_chans=source.backbone.get('in_channels', 3), num_classes=source.head['num_classes'],
        qkv_bias=source.backbone.get('qkv_bias', False),
        use_aux_head=source.model.head.aux_head is not None)
    return next((name for name in zoo if zoo[name] == settings), None), settings, rest


def _timm_volo(source: PlainModel) -> Target:
    arch, settings, rest = _volo(source)
    size = source.model.backbone.full_subnet.resolution
    name = f'volo_{arch}_{size}'
    if timm.is_model(name) and 'patch_size' not in rest:
        return Target('timm.create_model', (name, ), rest, VOLO_NAMES)
    num_parts = len(settings['layers'])
    parts = _not_default(timm.models.volo.VOLO, **dict.fromkeys(
        ('downsamples', 'outlook_attention'), (True, ) + (False, ) * (num_parts - 1)))
    return Target('timm.models.volo.VOLO', (), dict(settings, img_size=size, **parts, **rest),
                  VOLO_NAMES)


def _mmpretrain_volo(source: PlainModel) -> Target:
    arch, _, rest = _volo(source)
    if arch is None:  # TimmClassifier takes names only
        _refuse('mmpretrain', 'backbone', dict(arch=source.backbone['arch']),
                ', since it knows VOLO by the names of timm only; use --format timm')
    size = source.model.backbone.full_subnet.resolution
    name = f'volo_{arch}_{size}'
    if not timm.is_model(name):
        name, rest = f'volo_{arch}_224', dict(rest, img_size=size)
    return _mmpretrain(source, VOLO_NAMES, type='TimmClassifier', model_name=name, **rest)


def _mmpretrain(source: PlainModel, names: Sequence[Tuple[str, str]] = (), **model) -> Target:
    if source.images:
        model['data_preprocessor'] = source.images
    return Target('mmpretrain.models.build_classifier', (model, ), {}, names)


_TARGETS = {
    (ElasticDeiT, 'timm'): _timm_deit,
    (ElasticDeiT, 'mmpretrain'): _mmpretrain_deit,
    (ElasticVOLO, 'timm'): _timm_volo,
    (ElasticVOLO, 'mmpretrain'): _mmpretrain_volo,
}


def _not_default(function: Callable, **kwargs) -> dict:
    defaults = signature(function).parameters
    return {key: value for key, value in kwargs.items() if value != defaults[key].default}


def _refuse(library: str, part: str, option: dict, why: str = '') -> NoReturn:
    raise UserError(f'{library} cannot represent {option} of model.{part}{why}.')
