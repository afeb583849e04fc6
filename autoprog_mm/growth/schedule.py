# Copyright (c) the autoprog_mm authors. All rights reserved.
"""When a run's stages begin, and how large and how regularised each one is."""
from dataclasses import dataclass, field
from typing import Dict, List, Mapping, Optional, Union

import numpy as np

from ..utils.checks import check_int, check_number
from ..utils.errors import UserError
from .subnet import Subnet

REGULARIZERS = ('rand_augment', 'random_erasing', 'drop_path')


@dataclass(frozen=True)
class Stage:
    """One stage of a schedule.

    Args:
        index (int): Place in the schedule, from 0.
        begin_epoch (int): First epoch of the stage.
        end_epoch (int): First epoch after it.
        subnet (Subnet): What the manual schedule runs.
        regularization (dict): Strength of each scheduled regulariser.
    """

    index: int
    begin_epoch: int
    end_epoch: int
    subnet: Subnet
    regularization: Dict[str, float] = field(default_factory=dict)


def round_to(value: float, divisor: int) -> int:
    """Round to a multiple of ``divisor``, never losing more than a tenth.

    Args:
        value (float): What to round.
        divisor (int): The result is a positive multiple of it.

    Returns:
        int: The rounded value.
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def _scales(initial_scale: float, num_stages: int) -> List[float]:
    # The last stage is the full network, also when it is the only one.
    return [float(s) for s in np.linspace(initial_scale, 1, num_stages)[:-1]] + [1.0]


def check_schedule(num_stages: int, initial_scale: Mapping[str, float],
                   regularization: Mapping[str, float]) -> None:
    """Raise a ValueError if these can't make a schedule, whatever the network.

    The arguments are those of :func:`build_schedule`.
    """
    check_int('num_stages', num_stages)
    for name, scales, allowed in (('initial_scale', initial_scale, ('depth', 'resolution')),
                                  ('regularization', regularization, REGULARIZERS)):
        unknown = sorted(set(scales) - set(allowed))
        if unknown:
            raise UserError(f'{name} got unknown keys {unknown}; it takes {sorted(allowed)}.')
        for key, scale in scales.items():
            # The first stage's share of the full value, which may be none of a regulariser.
            check_number(f'{name}.{key}', scale, high=1, above=name == 'initial_scale')


def build_schedule(num_stages: int,
                   max_epochs: int,
                   full: Union[Subnet, Mapping[str, int]],
                   initial_scale: Mapping[str, float],
                   regularization: Optional[Mapping[str, float]] = None,
                   full_regularization: Optional[Mapping[str, float]] = None,
                   resolution_divisor: int = 32,
                   cooldown_epochs: int = 0) -> List[Stage]:
    """The manual schedule ("Prog"), which is the frame of the search, too.

    Stage i of K starts at epoch ``floor(i * E / K)``, where E are all epochs
    but those of the cool-down, which belong to the last stage. A quantity of
    full value m and initial scale s gets ``linspace(s, 1, K)[i] * m``; see
    the AutoProg paper, section 3.1.

    Args:
        num_stages (int): Number of stages K. 1 gives the full network from
            the start.
        max_epochs (int): Epochs of the whole run.
        full (Subnet | dict): Depth and resolution of the full network.
        initial_scale (dict): Keys ``depth`` and ``resolution``: the share of
            the full value that the first stage runs, each in (0, 1]. One that
            is left out does not grow.
        regularization (dict, optional): The same for ``rand_augment``,
            ``random_erasing`` and ``drop_path``, each in [0, 1]. Defaults to
            None: no regulariser is scheduled.
        full_regularization (dict, optional): The full value of each of those;
            one that is not in here is not scheduled. Defaults to None.
        resolution_divisor (int): Resolutions are multiples of it.
            Defaults to 32.
        cooldown_epochs (int): Last epochs, which stages do not divide.
            Defaults to 0.

    Returns:
        list[Stage]: The stages in order; the last one is the full network.

    Raises:
        ValueError: For a scale outside its range, an unknown key, more stages
            than epochs or a full resolution that the divisor does not divide.
    """
    if not isinstance(full, Subnet):
        full = Subnet(**full)
    regularization = dict(regularization or {})
    check_schedule(num_stages, initial_scale, regularization)
    check_int('max_epochs', max_epochs)
    check_int('resolution_divisor', resolution_divisor)
    check_int('cooldown_epochs', cooldown_epochs, least=0, most=max_epochs - 1)
    epochs = max_epochs - cooldown_epochs
    if num_stages > epochs:
        less = f' less {cooldown_epochs} of cool-down' if cooldown_epochs else ''
        raise UserError(
            f'num_stages ({num_stages}) must not exceed max_epochs ({max_epochs}{less}): each '
            'stage needs an epoch. Lower num_stages of AutoProgHook or raise train_cfg.max_epochs.')
    if full.resolution % resolution_divisor:
        raise UserError(
            f'resolution_divisor ({resolution_divisor}) must divide the full resolution '
            f'({full.resolution}); choose a multiple of the patch size that does.')

    depth_scales = _scales(initial_scale.get('depth', 1), num_stages)
    resolution_scales = _scales(initial_scale.get('resolution', 1), num_stages)
    stages = []
    for i in range(num_stages):
        strength = {}
        for name, full_value in (full_regularization or {}).items():
            scale = _scales(regularization.get(name, 1), num_stages)[i]
            value = max(0., full_value if scale == 1 else scale * full_value)
            strength[name] = round(value) if name == 'rand_augment' and scale < 1 else value
        stages.append(
            Stage(
                index=i,
                begin_epoch=i * epochs // num_stages,
                end_epoch=(i + 1) * epochs // num_stages if i < num_stages - 1 else max_epochs,
                subnet=Subnet(
                    depth=min(full.depth, round_to(depth_scales[i] * full.depth, 1)),
                    resolution=min(
                        full.resolution,
                        round_to(resolution_scales[i] * full.resolution, resolution_divisor))),
                regularization=strength))
    return stages
