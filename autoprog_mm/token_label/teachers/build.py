# Copyright (c) the autoprog_mm authors. All rights reserved.
"""From a teacher's name to a teacher with trained weights."""
import difflib
import os.path as osp
from typing import Optional

import timm
import torch.nn as nn
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.apis.model import ModelHub
from mmpretrain.models import ImageClassifier, TimmClassifier
from mmpretrain.models.utils import ClsDataPreprocessor
from mmpretrain.registry import MODELS
from timm.data import resolve_data_config

from ...utils.config_files import read_config
from ...utils.errors import UserError
from .cells import ClassifierCells, TimmCells
from .dense import DenseTeacher, ImageReader
from .weights import load_strictly, load_weights, weights_fingerprint


def build_teacher(name: str,
                  checkpoint: Optional[str] = None,
                  pretrained: bool = False,
                  num_classes: Optional[int] = None,
                  img_size: Optional[int] = None) -> DenseTeacher:
    """Build a teacher with trained weights.

    Args:
        name (str): ``'timm:<model>'``, ``'mmpretrain:<model>'`` or the path of
            a config of mmpretrain.
        checkpoint (str, optional): File of its weights. It is read with
            ``weights_only=True``, and no weight may be missing or left over.
        pretrained (bool): Take the weights that timm, mmpretrain or the
            config's ``load_from`` name, instead of a checkpoint. Defaults to
            False.
        num_classes (int, optional): Number of classes of a model of timm with
            a checkpoint. Others know theirs.
        img_size (int, optional): Width and height of its input, in pixels.
            Defaults to what it was trained for.

    Returns:
        DenseTeacher: On the CPU, in eval mode.

    Raises:
        ValueError: For an unknown teacher, for weights that are not named,
            can't be read or don't fit, or for a teacher without a grid.
    """
    if (checkpoint is None) == (not pretrained):
        raise UserError(
            f'The teacher {name!r} needs weights, from --checkpoint FILE or from --pretrained, '
            f'but got {"both" if pretrained else "neither"}.')
    state = None if checkpoint is None else load_weights(checkpoint)
    kind, _, model_name = name.partition(':')
    if kind == 'timm':
        return _build_timm(model_name, checkpoint, state, num_classes, img_size)
    if kind == 'mmpretrain':
        info = ModelHub.get(model_name)  # raises for unknown names
        return _build_from_config(info.config, name, checkpoint, state, info.weights, img_size)
    if osp.isfile(name):
        cfg = read_config(name, '--teacher')
        return _build_from_config(cfg, name, checkpoint, state, cfg.get('load_from'), img_size)
    raise UserError(
        f'--teacher must be timm:<model>, mmpretrain:<model> or the path of a config, but '
        f'{name!r} is none of these.')


def _build_timm(name: str, checkpoint: Optional[str], state: Optional[dict],
                num_classes: Optional[int], img_size: Optional[int]) -> DenseTeacher:
    if ':' not in name and not timm.is_model(name):  # hf-hub:... is not listed
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise UserError(
            f'timm has no model {name!r}' +
            (f'; perhaps {" or ".join(close)}?' if close else '. timm.list_models() names all.'))
    settings = dict(pretrained=True)
    if state is not None:
        if num_classes is None:
            raise UserError(
                f'--num-classes is needed to build timm:{name} for the checkpoint {checkpoint!r}, '
                'since there are no class folders.')
        settings = dict(num_classes=num_classes)
    model = timm.create_model(name, **settings)
    data = resolve_data_config(model=model)
    default_size = data['input_size'][-1]
    img_size = img_size or default_size
    state = model.state_dict() if state is None else state
    fingerprint = weights_fingerprint(state)
    resized = None
    if img_size != default_size and model.pretrained_cfg.get('fixed_input_size', False):
        resized = timm.create_model(name, num_classes=model.num_classes, img_size=img_size)
    source = 'Its own pretrained weights do' if checkpoint is None else \
        f'The checkpoint {checkpoint!r} does'
    model = _load_timm(
        model, resized, img_size, state, f'{source} not fit timm:{name} with {model.num_classes} '
        f'classes (--num-classes) at {img_size} pixels (--img-size)')
    if not hasattr(model, 'forward_head'):
        raise UserError(f'timm:{name} cannot be asked about cells: it has no forward_head.')
    preprocessor = ClsDataPreprocessor(
        mean=[255 * value for value in data['mean']],
        std=[255 * value for value in data['std']],
        to_rgb=True)
    # timm resizes with pillow.
    reader = ImageReader(img_size, data['interpolation'], 'pillow')
    return DenseTeacher(TimmCells(model), preprocessor, reader, fingerprint)


def _load_timm(model: nn.Module, resized: Optional[nn.Module], img_size: int, state: dict,
               problem: str) -> nn.Module:
    """Load weights that were trained at the input size, or at the model's default."""
    if resized is None:
        load_strictly(model, state, problem)
        return model
    expected = resized.state_dict()
    fits = all(name in state and state[name].shape == expected[name].shape for name in expected)
    if fits or not hasattr(model, 'set_input_size'):
        load_strictly(resized, state, problem)
        return resized
    load_strictly(model, state, problem)
    model.set_input_size(img_size=(img_size, img_size))
    return model


def _build_from_config(cfg: Config, name: str, checkpoint: Optional[str], state: Optional[dict],
                       weights: Optional[str], img_size: Optional[int]) -> DenseTeacher:
    if not cfg.get('model'):
        raise UserError(f'The config of --teacher {name} has no model.')
    if state is None:
        if not weights:
            raise UserError(
                f'--pretrained: --teacher {name} names no weights (load_from). Give --checkpoint.')
        checkpoint, state = weights, load_weights(weights)
    model_cfg = cfg.model.copy()
    model_cfg.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
    # Weights come from the checkpoint; a model of timm inside must not fetch others.
    for part in (model_cfg, model_cfg.get('backbone') or {}):
        if part.get('pretrained') is True:
            part['pretrained'] = False
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(model_cfg)
    if not isinstance(model, (ImageClassifier, TimmClassifier)) or \
            not isinstance(model.data_preprocessor, ClsDataPreprocessor):
        raise UserError(
            f'--teacher {name} must be an ImageClassifier or a TimmClassifier with a '
            f'ClsDataPreprocessor, but is a {type(model).__name__} with a '
            f'{type(model.data_preprocessor).__name__}.')
    load_strictly(model, state, f'The checkpoint {checkpoint!r} does not fit --teacher {name}')
    cells = TimmCells(model.model) if isinstance(model, TimmClassifier) else ClassifierCells(model)
    return DenseTeacher(cells, model.data_preprocessor, _reader_of(cfg, name, img_size),
                        weights_fingerprint(state))


def _reader_of(cfg: Config, name: str, img_size: Optional[int]) -> ImageReader:
    """The reader that is nearest to a config's test pipeline."""
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    size, load, resize = None, {}, {}
    for transform in dataset.get('pipeline') or cfg.get('test_pipeline') or []:
        kind = transform['type']
        kind = (kind if isinstance(kind, str) else kind.__name__).rpartition('.')[2]
        if kind == 'LoadImageFromFile':
            load = {key: transform[key] for key in ('color_type', 'imdecode_backend')
                    if key in transform}
        elif kind in ('Resize', 'ResizeEdge'):
            size = transform.get('scale')
            resize = {key: transform[key] for key in ('interpolation', 'backend')
                      if key in transform}
        elif kind == 'CenterCrop':
            size = transform['crop_size']
        elif kind == 'EfficientNetCenterCrop':  # which resizes, too
            size = transform['crop_size']
            resize = dict(
                interpolation=transform.get('interpolation', 'bicubic'),
                backend=transform.get('backend', 'cv2'))
    if isinstance(size, (tuple, list)) and len(set(size)) == 1:
        size = size[0]
    if img_size is None and not isinstance(size, int):
        raise UserError(
            f'--img-size is needed: the test pipeline of --teacher {name} names no square size '
            f'({size}).')
    return ImageReader(img_size or size, **resize, **load)
