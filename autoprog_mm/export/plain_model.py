# Copyright (c) the autoprog_mm authors. All rights reserved.
"""From a config of plain data to its model, of a few known parts.

A registry imports what its types name. Who exports somebody else's checkpoint
would so run whatever that person has put there. Here parts are built by class.
"""
from copy import deepcopy
from typing import Any, Iterable, NamedTuple

from mmpretrain.models import ImageClassifier, VisionTransformerClsHead

from ..models import ElasticDeiT, ElasticVOLO, VOLOHead
from ..utils.errors import UserError

_SCOPE = 'mmpretrain.'

_FAMILIES = {  # by type of the backbone; the stock one has ElasticDeiT's options and names
    'ElasticDeiT': (ElasticDeiT, VisionTransformerClsHead),
    'VisionTransformer': (ElasticDeiT, VisionTransformerClsHead),
    'ElasticVOLO': (ElasticVOLO, VOLOHead),
}
_OPTIONS = {  # what scores depend on
    ElasticDeiT: ('arch', 'img_size', 'patch_size', 'in_channels', 'out_indices', 'qkv_bias',
                  'norm_cfg', 'final_norm', 'out_type', 'with_cls_token', 'interpolate_mode',
                  'layer_scale_init_value', 'patch_cfg', 'layer_cfgs', 'pre_norm'),
    ElasticVOLO: ('arch', 'img_size', 'patch_size', 'in_channels', 'qkv_bias'),
    VisionTransformerClsHead: ('num_classes', 'in_channels', 'hidden_dim', 'act_cfg'),
    VOLOHead: ('num_classes', 'in_channels', 'dense_weight'),
}
_TRAINING_OPTIONS = {  # of those
    ElasticDeiT: ('drop_rate', 'drop_path_rate', 'frozen_stages', 'channels_last'),
    ElasticVOLO: ('drop_path_rate', 'pos_drop_rate', 'attn_drop_rate', 'mix_token',
                  'channels_last'),
    VisionTransformerClsHead: ('loss', 'topk', 'cal_acc'),
    VOLOHead: ('loss', 'topk', 'cal_acc', 'class_target'),
}
_MODEL_OPTIONS = ('backbone', 'neck', 'head', 'data_preprocessor', 'train_cfg', 'pretrained')
_PREPROCESSING = ('mean', 'std', 'to_rgb', 'pad_size_divisor', 'pad_value')
# What options of the parts may name. The parts look these up in registries,
# which import what they do not know.
_LAYER_TYPES = ('LN', 'GELU', 'ReLU', 'Tanh', 'Conv2d')
_LOOKED_UP = ('type', 'conv_type', '_scope_')


class PlainModel(NamedTuple):
    """A model that was built from plain data.

    Args:
        model (ImageClassifier): In eval mode, with random weights.
        backbone (dict): Options of its backbone that scores depend on.
        head (dict): The same of its head.
        images (dict): How images are normalised, as options of mmpretrain's
            ``ClsDataPreprocessor``.
    """

    model: ImageClassifier
    backbone: dict
    head: dict
    images: dict


def build_plain_model(config: dict) -> PlainModel:
    """Build the model of a config for use, without what only training needs.

    No weights are read (``init_cfg`` and ``pretrained`` are left out), and no
    part is built that is not known here, whatever the config names.

    Args:
        config (dict): Of plain data; ``model`` and ``data_preprocessor`` are
            looked at.

    Returns:
        PlainModel: The model and what it was built from.

    Raises:
        ValueError: For types and options that are not known here; names them.
    """
    model = _part(config, 'model')
    _check_type(model, 'model', ('ImageClassifier', ))
    _check_options(model, 'model', _MODEL_OPTIONS)
    if model.get('neck') is not None:
        raise UserError(f'model.neck must be None for export, but is {model["neck"]!r}.')
    backbone, head = _part(model, 'backbone', 'model.'), _part(model, 'head', 'model.')
    backbone_class, head_class = _FAMILIES[_check_type(backbone, 'model.backbone', _FAMILIES)]
    _check_type(head, 'model.head', (head_class.__name__, ))
    out_type = backbone.get('out_type', 'cls_token')
    if out_type not in ('cls_token', 'avg_featmap'):
        raise UserError("model.backbone.out_type must be 'cls_token' or 'avg_featmap' for export, "
                         f'but is {out_type!r}.')
    options, modules = [], []
    for where, part, kind in (('model.backbone', backbone, backbone_class),
                              ('model.head', head, head_class)):
        _check_options(part, where, _OPTIONS[kind] + _TRAINING_OPTIONS[kind])
        options.append({name: _plain(value, f'{where}.{name}') for name, value in part.items()
                        if name in _OPTIONS[kind]})
        try:
            modules.append(kind(**deepcopy(options[-1])))
        except Exception as error:  # options that are anything can raise anything
            raise UserError(
                f'{where} cannot be built of {options[-1]}: {error!r}') from error
    owner = model if model.get('data_preprocessor') else config
    images = _part(owner, 'data_preprocessor') if owner.get('data_preprocessor') else {}
    images = {name: _plain(images[name], name) for name in _PREPROCESSING if name in images}
    return PlainModel(ImageClassifier(modules[0], head=modules[1]).eval(), *options, images)


# ------------------------------------------------------------------- building


def _part(whole: dict, name: str, where: str = '') -> dict:
    if not isinstance(whole.get(name), dict):
        raise UserError(f'The config must have a dict {where}{name}, but has '
                         f'{whole.get(name)!r}. Pass the config file of the run with --config.')
    return whole[name]


def _check_type(part: dict, where: str, known: Iterable[str]) -> str:
    name = part.get('type')
    short = name[len(_SCOPE):] if isinstance(name, str) and name.startswith(_SCOPE) else name
    if not isinstance(short, str) or short not in known:
        raise UserError(f'{where}.type must be one of {sorted(known)} for export, but is '
                         f'{name!r}; nothing else is built.')
    return short


def _check_options(part: dict, where: str, known: Iterable[str]) -> None:
    # By '_scope_' mmengine notes whose config a part comes from; it is not used.
    unknown = [key for key in part
               if key not in ('type', 'init_cfg', '_scope_') and key not in known]
    if unknown:
        raise UserError(f'{where} has options {unknown}, which export does not know; it knows '
                         f'{sorted(known)}.')


def _plain(value: Any, where: str) -> Any:
    """A copy with known types of layers only, and without ``init_cfg``."""
    if isinstance(value, dict):
        for key in _LOOKED_UP:
            if key in value and value[key] not in _LAYER_TYPES:
                raise UserError(f'{where}.{key} must be one of {_LAYER_TYPES} for export, but is '
                                 f'{value[key]!r}; nothing else is built.')
        return {key: _plain(item, f'{where}.{key}') for key, item in value.items()
                if key != 'init_cfg'}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item, f'{where}[{i}]') for i, item in enumerate(value))
    return value
