# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What a run may do with weights that were loaded, and how a test loads them."""
import logging
from typing import Optional, Sequence, Set, Tuple

from mmengine.logging import print_log
from mmengine.model import BaseTTAModel
from mmengine.runner import BaseLoop

from ..growth.schedule import Stage
from ..growth.scoring import stage_candidates
from ..growth.search import OneShotSearch
from ..growth.subnet import Subnet
from ..models.elastic import ElasticBackbone, Slots
from ..models.weights import SAVED_IN_MODEL
from ..utils.errors import UserError
from ..utils.modules import unwrap
from .checkpoint import differing_parameters
from .run_parts import RunParts


def trains(runner) -> bool:
    """Whether a runner trains, and not only tests, in ``before_run`` or later.

    Args:
        runner (Runner): The runner.
    """
    return isinstance(runner._train_loop, BaseLoop)  # until it is built it is a config


def never_resume_a_test(runner) -> None:
    """Have a test load weights, though the config of a resumed run says ``resume=True``.

    A test would otherwise get the weights that training goes on with, and
    could not test what has no state of a run, as best checkpoints.

    Args:
        runner (Runner): The runner, in ``before_run``.
    """
    if not trains(runner):
        runner._resume = False


def check_all_there(runner, weights: dict) -> None:
    """Raise an error unless weights to test have all that the model has.

    mmengine would only warn, and test with the rest at random.

    Args:
        runner (Runner): The runner.
        weights (dict[str, Tensor]): A state dict, about to be loaded.

    Raises:
        UserError: Names some that are missing.
    """
    if not any(isinstance(loop, BaseLoop) for loop in (runner._val_loop, runner._test_loop)):
        return  # somebody loads what they want
    model = unwrap(runner.model)
    model = model.module if isinstance(model, BaseTTAModel) else model
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, ElasticBackbone):
        return
    weights = dict(weights)
    backbone._checkpoint_filter(weights, '', {}, True)
    own = model.state_dict()
    parts = tuple({f'{name.split(".")[0]}.' for name in own})  # others' are of no use here
    weights = {name: value for name, value in weights.items() if name.startswith(parts)}
    for name in ('backbone.pos_embed', SAVED_IN_MODEL):  # the first one may be resized
        for each in (own, weights):
            each.pop(name, None)
    differing = differing_parameters(own, weights)
    if differing is not None:
        raise UserError(f'The checkpoint to test is of another model: {differing}.')


def check_loaded(parts: RunParts, stages: Sequence[Stage],
                 search: Optional[OneShotSearch]) -> None:
    """Look at what a run that starts from loaded weights, if it does, will do with them.

    Args:
        parts (RunParts): The run's parts.
        stages (Sequence[Stage]): Its schedule.
        search (OneShotSearch | None): Its search.

    Raises:
        UserError: If it would train layers that slept when the weights were
            saved. What growth overwrites is warned of.
    """
    backbone, operator = parts.backbone, parts.optim_wrapper.growth_operator
    if backbone.loaded_slots is None:
        return
    loaded = _slots(backbone.loaded_slots)
    first = Subnet.covering(stage_candidates(
        stages, 0, backbone.full_subnet, search is not None))
    used = _slots(backbone.slots_at(first.depth))  # as they were loaded
    later = _slots(backbone.slots_at(stages[-1].subnet.depth))
    if not operator.overwrites:
        used = later
    if used - loaded:
        way_out = 'begin with fewer layers (initial_scale.depth, search=None)' \
            if operator.overwrites else 'take an operator that fills the layers that wake, ' \
            f'not {type(operator).__name__}'
        raise UserError(
            f'The loaded weights are of an unfinished run: {len(used - loaded)} of the {len(used)} '
            'layers that this run takes from it were asleep, and are not trained. Load a '
            f'checkpoint of its last stage, go on with it by --resume, or {way_out}.')
    lost = (later - _slots(backbone.slots_at(stages[0].subnet.depth))) & loaded
    if operator.overwrites and lost:
        print_log(
            f'{type(operator).__name__} overwrites a layer when it wakes, and so {len(lost)} of '
            f'the {len(loaded)} layers whose weights were loaded. To keep them, set '
            "optim_wrapper.growth=dict(type='Keep'), or initial_scale.depth=1 to train all layers "
            'from the start.', logger='current', level=logging.WARNING)


def _slots(slots: Slots) -> Set[Tuple[int, int]]:
    """Group and index of each."""
    return {(i, index) for i, group in enumerate(slots) for index in group}
