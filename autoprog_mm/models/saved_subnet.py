# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What is awake travels with the weights, and weights that don't fit are refused."""
import logging
from typing import Dict, List, Optional, Sequence, Tuple

import torch
from mmengine.logging import print_log

from ..growth.subnet import Subnet
from ..utils.errors import UserError
from .timm_names import Patterns, rename_from_timm

# A tensor of a state dict: depth, resolution and min_depth. Only one of which slots sleep has it,
# so that the one of the full network is a plain one, and who doesn't know it is told.
SAVED_SUBNET = 'awake_subnet'
_LEAST_TAKEN = 0.9
_LISTED = 3
_OTHER_PARTS = ('head.', 'neck.')  # of a classifier, which may be loaded by themselves


class SavedSubnet:
    """Mixin of ``ElasticBackbone`` for its part of a state dict.

    Whoever loads weights of which slots slept runs what was awake: mmengine's
    Runner, ``get_model``, ``init_cfg`` and ``load_state_dict`` alike. Weights with the
    names of timm, such as DeiT's own files, are taken, too.
    """

    timm_names: Patterns = ()
    # The slots that came awake with the weights that were loaded; None if none were.
    loaded_slots: Optional[Tuple[Tuple[int, ...], ...]] = None
    _asleep_by_load = False

    def wake_all(self) -> None:
        """Wake all slots, and leave :attr:`min_depth` open again."""
        self._min_depth, self._min_depth_is_set = self.full_subnet.depth, False
        self.set_subnet(self.full_subnet)

    def init_weights(self) -> None:
        """Initialise as ``init_cfg`` says, but not what was loaded before.

        mmengine's Runner calls it in training, also for a model that it was
        given with weights.

        Raises:
            UserError: If weights were loaded.
        """
        if self.loaded_slots is not None and not getattr(self, 'is_init', False):
            raise UserError(
                f'{type(self).__name__} was given with loaded weights, or has tested some, which '
                'init_weights of the Runner would replace by random ones. Give the checkpoint as '
                'load_from to a new Runner.')
        inherited = getattr(super(), 'init_weights', None)
        if inherited is not None:
            inherited()

    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        awake = self.awake_subnet
        if awake.depth < self.full_subnet.depth:
            destination[prefix + SAVED_SUBNET] = torch.tensor(
                [awake.depth, awake.resolution, self.min_depth])

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys,
                              unexpected_keys, error_msgs) -> None:
        saved = state_dict.pop(prefix + SAVED_SUBNET, None)
        own = {prefix + name: shape for name, shape in self._shapes().items()}
        if not prefix:
            rename_from_timm(state_dict, list(own), self.timm_names, prefix)
        try:
            super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys,
                                          unexpected_keys, error_msgs)
        except AssertionError as error:  # mmpretrain's, in resizing positions
            raise UserError(
                f'The positions of the weights cannot be resized for {type(self).__name__}: '
                f'{error} They are perhaps of a model with other tokens besides patches.') from None
        # From here on, positions have our size.
        theirs = {name: tuple(getattr(value, 'shape', ())) for name, value in state_dict.items()
                  if name.startswith(prefix)}
        if theirs:
            _check_taken(type(self).__name__, own, theirs)  # mmengine would only warn
        if own.keys() & theirs.keys():
            self._wake_as_saved(None if saved is None else saved.tolist())

    def _checkpoint_filter(self, state_dict, prefix, local_metadata, strict, *args) -> None:
        """mmpretrain's classifier calls it with its whole state dict, before it loads it."""
        inherited = getattr(super(), '_checkpoint_filter', None)
        if inherited is not None:
            inherited(state_dict, prefix, local_metadata, strict, *args)
        own, ours = self._shapes(), f'{prefix}backbone.'
        rename_from_timm(state_dict, list(own), self.timm_names, ours)
        if not any(name.startswith(ours) for name in state_dict) and \
                not all(name.startswith(_OTHER_PARTS) for name in state_dict):
            _check_taken(type(self).__name__, {ours + name: shape for name, shape in own.items()},
                         dict.fromkeys(state_dict))

    def _shapes(self) -> Dict[str, Tuple[int, ...]]:
        return {name: tuple(value.shape) for name, value in self.state_dict().items()
                if name != SAVED_SUBNET}

    def _wake_as_saved(self, saved: Optional[List[float]]) -> None:
        if saved is not None:
            if len(saved) != 3 or any(value != int(value) for value in saved):  # of an average
                raise UserError(f'{SAVED_SUBNET} of the weights must be depth, resolution and '
                                f'min_depth, but is {saved}.')
            depth, resolution, min_depth = map(int, saved)  # half precision has made floats
            self._min_depth, self._min_depth_is_set = min_depth, False
            self.set_subnet(Subnet(depth, resolution))
            print_log(
                f'These weights are of an unfinished run: {self.awake_subnet} of '
                f'{self.full_subnet} (depth x pixels) was awake, and is what runs.',
                logger='current', level=logging.WARNING)
        elif self._asleep_by_load:
            self.wake_all()
        self._asleep_by_load = saved is not None
        self.loaded_slots = self.awake_slots if saved is not None else tuple(
            tuple(range(len(group))) for group in self.slot_groups)


def _check_taken(model: str, own: Dict[str, Tuple[int, ...]],
                 theirs: Dict[str, Optional[Tuple[int, ...]]]) -> None:
    """Raise an error if weights are of another model.

    Args:
        model (str): Name of the model's class.
        own (dict[str, tuple[int]]): Shapes of its parameters and buffers.
        theirs (dict[str, tuple[int]]): Shapes of the weights.
    """
    other = [name for name in own if name in theirs and theirs[name] != own[name]]
    if other:
        raise UserError(
            f'The weights are of another {model}: {other[0]} is of shape {theirs[other[0]]} '
            f'instead of {own[other[0]]}' + (f', and {len(other) - 1} more differ' if other[1:]
                                             else '') + '. Take weights of the same size.')
    shared = own.keys() & theirs.keys()
    if len(shared) < _LEAST_TAKEN * max(len(own), len(theirs)):
        hint = " Set prefix='backbone.' of init_cfg." if any(
            f'backbone.{name}' in theirs for name in own) else ''
        raise UserError(
            f'The weights are not of this {model}: of its {len(own)} tensors they have '
            f'{len(shared)}, and {len(theirs) - len(shared)} others. The model has '
            f'{_list(own.keys() - shared, own)}, the weights have '
            f'{_list(theirs.keys() - shared, theirs)}.{hint}')


def _list(names: set, order: Sequence[str]) -> str:
    listed = [name for name in order if name in names]
    return f'{", ".join(listed[:_LISTED]) or "nothing else"}{" and more" * (len(listed) > _LISTED)}'
