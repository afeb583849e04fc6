# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What a run trains with, as plain data, and how a checkpoint's run and this one differ in it.

What changes the function that is trained, or its schedule, must be the same to
resume. What the optimizer and the schedulers get from the checkpoint, whatever
the config says, is said.
"""
import logging
from typing import Any, Dict, Iterator, List, NamedTuple, Sequence

from mmengine.dist import all_gather_object, get_world_size
from mmengine.logging import print_log

from ..datasets.seeded import batch_size_of
from ..utils.errors import UserError
from ..utils.plain_config import plain_config

# Where and how fast a run trains, or what it says.
_FREE = (
    # of models
    'init_cfg', 'pretrained', 'with_cp', 'cal_acc', 'topk', 'channels_last',
    # of data
    'num_workers', 'persistent_workers', 'pin_memory', 'prefetch_factor', 'timeout', 'collate_fn',
    'worker_init_fn', 'multiprocessing_context', 'backend_args', 'file_client_args', 'in_memory',
    'lazy_init', 'serialize_data',
    'batch_size',  # but not that of an update
    # of optimizers
    'foreach', 'fused', 'capturable', 'differentiable', 'params')
# What may move with the data, or to more processes.
_PLACES = ('data_root', 'data_prefix', 'ann_file', 'img_path', 'image_root', 'label_root',
           'processes')
# Of a scheduler, what is its state and no setting; the values are the optimizer's.
_PROGRESS = ('last_step', '_global_step', '_last_value', 'base_values', 'verbose', 'best',
             'num_bad_epochs', 'cooldown_counter', 'last_epoch')
_LISTED = 8  # differences, in a message


class Difference(NamedTuple):
    """A setting that two runs do not share."""

    name: str
    there: Any
    here: Any

    def __str__(self) -> str:
        return f'{self.name} ({_short(self.there)} there, {_short(self.here)} here)'


def run_settings(runner) -> dict:
    """What a run trains with, besides its stages and the numbers of its optimizer.

    Args:
        runner (Runner): One whose parts are built.

    Returns:
        dict: Plain data, for a checkpoint.
    """
    cfg, wrapper, loader = runner.cfg, runner.optim_wrapper, runner.train_dataloader
    processes, growth = get_world_size(), wrapper.growth_operator
    return plain_config(dict(
        model=cfg.get('model'),
        data_preprocessor=cfg.get('data_preprocessor'),
        train_dataloader=cfg.get('train_dataloader'),
        samples=len(loader.dataset),
        images_of_an_update=batch_size_of(loader) * processes * wrapper._accumulative_counts,
        processes=processes,
        optim_wrapper=dict(
            optimizer=type(wrapper.optimizer).__name__,
            clip_grad=wrapper.clip_grad_kwargs and dict(
                wrapper.clip_grad_kwargs, type=wrapper.grad_name),
            growth=dict(vars(growth), type=type(growth).__name__),
            optimizer_state=wrapper.optimizer_state),
        param_scheduler=[type(scheduler).__name__ for scheduler in schedulers_of(runner)]), _FREE)


def check_settings(checkpoint: dict, there: dict, runner) -> None:
    """Refuse to mix two runs, and say what is taken from the checkpoint.

    Args:
        checkpoint (dict): As loaded.
        there (dict): Its :func:`run_settings`.
        runner (Runner): The run that is to go on from it.

    Raises:
        UserError: If other things would be trained, or otherwise.
    """
    found = list(_differences('', there, run_settings(runner)))
    places = [d for d in found if d.name.rpartition('.')[2] in _PLACES]
    mixing = [d for d in found if d not in places]
    mixing += _classes(checkpoint, runner) + _groups(checkpoint, runner)
    if mixing:
        raise UserError(
            f'The checkpoint was made with other settings, and to go on would mix two runs: '
            f'{_listed(mixing)}. Set the same to resume, or use load_from without resume to start '
            'from its weights.')
    for text, differences in (
            ('Settings that are taken from the checkpoint, and are not as the config has them',
             _optimizer(checkpoint['optimizer']['param_groups'],
                        runner.optim_wrapper.optimizer.param_groups) +
             _scheduling(checkpoint, runner)),
            ('Settings that are now others than in the checkpoint, and are used', places)):
        if differences:
            print_log(f'{text}: {_listed(differences)}.', logger='current', level=logging.WARNING)


def describe_differences(there: Any, here: Any) -> str:
    """Where two trees of plain data differ, in words."""
    return _listed(list(_differences('', there, here)))


def check_ranks_share(runner) -> None:
    """Raise a UserError unless all ranks train with the same settings; a collective call.

    Args:
        runner (Runner): One whose parts are built.
    """
    mine = dict(
        run_settings(runner),
        param_scheduler=plain_config([s.state_dict() for s in schedulers_of(runner)], _PROGRESS))
    groups = plain_config(runner.optim_wrapper.optimizer.param_groups, _FREE)
    first, *others = all_gather_object((mine, groups))
    for rank, other in enumerate(others, start=1):
        found = [d for d in _differences('', first[0], other[0])
                 if d.name.rpartition('.')[2] not in _PLACES]
        found += _optimizer(first[1], other[1])
        if found:
            raise UserError(
                f'Rank {rank} (here) has other settings than rank 0 (there): {_listed(found)}. '
                'Start all with the same config and options.')


# ---------------------------------------------------------------- differences


def _differences(name: str, there: Any, here: Any) -> Iterator[Difference]:
    """Where two trees of plain data differ."""
    if isinstance(there, dict) and isinstance(here, dict):
        pairs = {key: (there.get(key), here.get(key)) for key in {**there, **here}}
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        pairs = dict(enumerate(zip(there, here)))
    else:
        if there != here and not _same_type(name, there, here):
            yield Difference(name, there, here)
        return
    for key, pair in pairs.items():
        yield from _differences(f'{name}.{key}' if name else str(key), *pair)


def _same_type(name: str, there: Any, here: Any) -> bool:
    """Whether both name one class, with or without its scope or module."""
    return name.rpartition('.')[2] == 'type' and \
        str(there).rpartition('.')[2] == str(here).rpartition('.')[2]


def _classes(checkpoint: dict, runner) -> List[Difference]:
    """The first class that has another name, for then labels mean something else."""
    meta = (checkpoint['meta'].get('dataset_meta') or {},
            getattr(runner.train_dataloader.dataset, 'metainfo', None) or {})
    there, here = (list(one.get('classes') or ()) for one in meta)
    if not there or not here or there == here:
        return []
    if len(there) != len(here):
        return [Difference('number of classes', len(there), len(here))]
    number = next(i for i, pair in enumerate(zip(there, here)) if pair[0] != pair[1])
    return [Difference(f'class {number}', there[number], here[number])]


def _groups(checkpoint: dict, runner) -> List[Difference]:
    """Sizes of the optimizer's groups, which ``paramwise_cfg`` and its constructor make."""
    there, here = ([len(group['params']) for group in optimizer['param_groups']]
                   for optimizer in (checkpoint['optimizer'], vars(runner.optim_wrapper.optimizer)))
    return list(_differences('parameters of the optimizer\'s groups', there, here)) if \
        there != here else []


def _optimizer(groups_there: List[dict], groups_here: List[dict]) -> List[Difference]:
    """Numbers of the optimizer's groups, each pair of them once."""
    found: Dict[str, Difference] = {}
    for there, here in zip(groups_there, groups_here):
        # What a scheduler sets has its setting under another name.
        left_out = {key for group in (there, here) for key in group if f'initial_{key}' in group}
        if 'momentum' in left_out:  # which Adam has in there
            left_out.add('betas')
        pair = (plain_config(group, {*_FREE, *left_out}) for group in (there, here))
        for one in _differences('optimizer', *pair):
            one = one._replace(name=one.name.replace('initial_', ''))
            found[str(one)] = one
    return list(found.values())


def _scheduling(checkpoint: dict, runner) -> List[Difference]:
    """Settings of the schedulers, whose kinds are the same."""
    there = checkpoint.get('param_schedulers') or []
    states = there if isinstance(there, list) else [s for part in there.values() for s in part]
    found: List[Difference] = []
    for i, (state, scheduler) in enumerate(zip(states, schedulers_of(runner))):
        here = {key: value for key, value in scheduler.state_dict().items() if not callable(value)}
        found += _differences(f'param_scheduler.{i}', plain_config(state, _PROGRESS),
                              plain_config(here, _PROGRESS))
    return found


def schedulers_of(runner) -> list:
    """The schedulers of a run, also of one with several optimizers."""
    schedulers = runner.param_schedulers or []
    return schedulers if isinstance(schedulers, list) else [
        scheduler for part in schedulers.values() for scheduler in part]


# ---------------------------------------------------------------------- words


def _listed(differences: Sequence[Difference]) -> str:
    more = len(differences) - _LISTED
    return ', '.join(map(str, differences[:_LISTED])) + (f', and {more} more' if more > 0 else '')


def _short(value: Any) -> str:
    text = 'nothing' if value is None else repr(value)
    return text if len(text) <= 80 else f'{text[:77]}...'
