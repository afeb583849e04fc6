# Copyright (c) the autoprog_mm authors. All rights reserved.
"""From a stock mmpretrain config to one that grows."""
from copy import deepcopy
from typing import Mapping, Optional, Union

import torch
from mmengine.config import Config
from mmpretrain.registry import HOOKS, MODELS

from ..growth.schedule import build_schedule
from ..models.elastic import ElasticBackbone
from ..utils.config_files import with_names
from ..utils.errors import UserError
from .overlay_parts import (
    add_runtime,
    check_runner,
    convert_data,
    convert_hooks,
    convert_loop,
    convert_model,
    convert_optim_wrapper,
)

# Resolutions are multiples of 32 pixels, or fewer in networks for small images.
_DIVISOR, _STEPS_OF_FULL = 32, 7


def overlay(cfg: Config,
            scale: Union[float, Mapping[str, float]] = 0.5,
            num_stages: int = 4,
            search: Optional[dict] = dict(type='OneShotSearch', epochs=2),  # noqa: B006
            resolution_divisor: Optional[int] = None) -> Config:
    """Make an AutoProg config of a stock mmpretrain config.

    The recipe stays as it is, with its optimizer, schedule, batch and
    augmentation. Of an ``EMAHook`` the momentum stays, as that of the copy
    that growth and validation use.

    Args:
        cfg (Config): Of an ``ImageClassifier`` with a ``VisionTransformer``
            that is trained by epochs. It is not changed.
        scale (float | dict): ``initial_scale`` of ``AutoProgHook``, one number
            for ``depth`` and ``resolution`` or a dict of them.
            Defaults to 0.5.
        num_stages (int): ``num_stages`` of ``AutoProgHook``. Defaults to 4.
        search (dict | None): ``search`` of ``AutoProgHook``; None is the
            manual schedule. Defaults to ``dict(type='OneShotSearch',
            epochs=2)``.
        resolution_divisor (int, optional): ``resolution_divisor`` of
            ``AutoProgHook``. Defaults to None: 32, or what is nearest to it
            and fits patches and image.

    Returns:
        Config: One that trains as it is.

    Raises:
        UserError: If there is something in the config that can't grow, or if
            the arguments don't fit it.
    """
    result = with_names(cfg).to_dict()
    check_runner(result)
    convert_model(result)
    convert_loop(result)
    backbone = _try_backbone(result['model']['backbone'])
    convert_data(result, backbone.full_subnet.resolution)
    ema = convert_hooks(result)
    convert_optim_wrapper(result, ema)
    add_runtime(result)
    scale = dict(scale) if isinstance(scale, Mapping) else dict(depth=scale, resolution=scale)
    hook = dict(type='AutoProgHook', num_stages=num_stages, initial_scale=scale)
    divisor = resolution_divisor or _fitting_divisor(backbone)
    if divisor != _DIVISOR:
        hook['resolution_divisor'] = divisor
    hook['search'] = deepcopy(search)
    _check_schedule(hook, backbone, divisor, result['train_cfg'].get('max_epochs'))
    result['custom_hooks'] = [
        hook, dict(type='MoGrowEMAHook'), *(result.get('custom_hooks') or [])]
    return Config(result)


def _try_backbone(backbone: dict) -> ElasticBackbone:
    with torch.device('meta'):  # a huge one costs nothing there
        try:
            return MODELS.build({'_scope_': 'mmpretrain', **deepcopy(backbone)})
        except ValueError as error:
            raise UserError(f'model.backbone: {error}') from error


def _fitting_divisor(backbone: ElasticBackbone) -> int:
    full, step = backbone.full_subnet.resolution, backbone.resolution_step
    wanted = min(_DIVISOR, full / _STEPS_OF_FULL)
    multiples = [size for size in range(step, full + 1, step) if full % size == 0]
    return min(multiples, key=lambda size: abs(size - wanted))


def _check_schedule(hook: dict, backbone: ElasticBackbone, divisor: int,
                    max_epochs: Optional[int]) -> None:
    """Raise what the hook would raise when training begins."""
    built = HOOKS.build({'_scope_': 'mmpretrain', **deepcopy(hook)})
    stages = build_schedule(
        built.schedule['num_stages'], max_epochs, backbone.full_subnet,
        built.schedule['initial_scale'], resolution_divisor=divisor)
    backbone.min_depth = stages[0].subnet.depth
    for stage in stages:
        backbone.check_subnet(stage.subnet)
    if built.search is not None:
        built.search.check_stages(stages)
