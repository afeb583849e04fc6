# Copyright (c) the autoprog_mm authors. All rights reserved.
"""A validation or test of two images, for what would end or mislead a run later."""
import copy
import logging
from contextlib import nullcontext
from typing import Any, Collection, Dict, List, Optional

import torch
import torch.nn as nn
from mmengine.evaluator import BaseMetric, DumpResults
from mmengine.hooks import CheckpointHook, EarlyStoppingHook
from mmengine.logging import print_log
from mmengine.runner import BaseLoop, TestLoop, ValLoop
from mmengine.structures import BaseDataElement
from torch.utils.data import Dataset

from ..models.elastic import ElasticBackbone
from ..utils import undisturbed
from ..utils.errors import UserError, one_line
from ..utils.modules import unwrap
from ..utils.names import did_you_mean

_IMAGES, _TRIED = 2, 8
_KNOWN = ('mmpretrain', 'mmengine')  # whose metrics work on two images


def rehearse_validation(runner) -> None:
    """Find out which metrics a validation gives, and check who waits for which.

    Nothing is disturbed, and no loader is started. Ranks do it each on its own.

    Args:
        runner (Runner): One that is about to train.

    Raises:
        UserError: For a metric that cannot work with what the model gives, and
            for one that a hook or a scheduler waits for in vain.
    """
    loop = runner.val_loop
    if isinstance(loop, ValLoop):
        metrics = _rehearse('val', loop, unwrap(runner.model), 'val_step')
        if metrics is not None:
            _check_waiting(runner, metrics)


def rehearse_test(runner) -> None:
    """Find out whether metrics can work before a test.

    Args:
        runner (Runner): One that is about to test.

    Raises:
        UserError: For a metric that cannot work with what the model gives.
    """
    if isinstance(runner.test_loop, TestLoop):
        _rehearse('test', runner.test_loop, unwrap(runner.model), 'test_step')


def _rehearse(name: str, loop: BaseLoop, model: nn.Module, step: str) -> Optional[Dict[str, Any]]:
    """What the metrics of a loop give for some images; None if that is not known."""
    if not all(isinstance(metric, BaseMetric) for metric in loop.evaluator.metrics):
        return None
    samples = _samples(name, loop.dataloader.dataset)
    if not samples:
        return None
    batch = loop.dataloader.collate_fn(samples)
    outputs = [one.to_dict() if isinstance(one, BaseDataElement) else one
               for one in _predict(model, step, batch)]
    metrics: Dict[str, Any] = {}
    for metric in loop.evaluator.metrics:
        if isinstance(metric, DumpResults):  # writes a file, and gives nothing
            continue
        values = _judge(name, copy.deepcopy(metric), batch, outputs)
        if values is None:
            return None
        for key, value in values.items():
            if key in metrics:
                raise UserError(
                    f'{name}_evaluator: two metrics are both called {key!r}. Give one of them '
                    'another prefix.')
            metrics[key] = value
    return metrics


def _samples(name: str, dataset: Dataset) -> List[dict]:
    """Some samples that can be loaded; of a dataset that is only planned, none."""
    samples: List[dict] = []
    error: Optional[Exception] = None
    # From both ends in turn, for some metrics need two classes.
    for place in range(min(_TRIED, len(dataset))):
        if len(samples) == _IMAGES:
            break
        index = len(dataset) - 1 - place // 2 if place % 2 else place // 2
        try:
            with undisturbed():
                samples.append(dataset[index])
        except IndexError:
            return []
        except Exception as caught:
            error = caught
    if error is not None and not samples:
        raise UserError(
            f'{name}_dataloader: none of the {min(_TRIED, len(dataset))} samples that were '
            f'tried can be loaded: {one_line(error)}.') from error
    return samples


def _predict(model: nn.Module, step: str, batch: dict) -> list:
    backbone = getattr(model, 'backbone', None)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), undisturbed(), \
                backbone.not_compiled() if isinstance(backbone, ElasticBackbone) else nullcontext():
            return getattr(model, step)(batch)
    finally:
        for module, training in modes:
            module.training = training


def _judge(name: str, metric: BaseMetric, batch: dict, outputs: List[dict]
           ) -> Optional[Dict[str, Any]]:
    """What a metric, a copy of the loop's, gives, by full name; None if that is not known."""
    try:
        metric.process(batch, outputs)
        values = metric.compute_metrics(list(metric.results))
    except Exception as error:
        text = f'{name}_evaluator: {type(metric).__name__} cannot judge what the model gives: ' \
            f'{one_line(error)}.'
        if type(metric).__module__.split('.')[0] in _KNOWN:
            raise UserError(text) from error
        # One of the user's own may need more images than these.
        print_log(f'Tried on {_IMAGES} images: {text}', logger='current', level=logging.WARNING)
        return None
    return {f'{metric.prefix}/{key}' if metric.prefix else key: value
            for key, value in values.items()}


def _check_waiting(runner, metrics: Dict[str, Any]) -> None:
    """Hooks and schedulers that wait for a metric must get it."""
    for hook in runner.hooks:
        if isinstance(hook, EarlyStoppingHook):
            _check_name('monitor of EarlyStoppingHook', hook.monitor, metrics)
        elif isinstance(hook, CheckpointHook) and hook.save_best:
            _check_best(hook, metrics)
    schedulers = runner.param_schedulers or []
    for part in schedulers.values() if isinstance(schedulers, dict) else [schedulers]:
        for scheduler in part:
            if getattr(scheduler, 'need_val_args', False):
                _check_name(f'monitor of {type(scheduler).__name__}', scheduler.monitor, metrics)


def _check_best(hook: CheckpointHook, metrics: Dict[str, Any]) -> None:
    where = f'save_best of {type(hook).__name__}'
    for key in hook.key_indicators:
        name = next(iter(metrics), 'auto') if key == 'auto' else key
        _check_name(where, name, metrics)
        if key != 'auto':  # its rule was known when the hook was built
            continue
        trial = copy.copy(hook)
        trial.is_better_than = {}
        try:
            trial._init_rule(hook.rules, [name])
        except ValueError:
            raise UserError(
                f"{where}, 'auto', takes the first metric, {name!r}, of which is not known whether "
                "more or less is better. Set default_hooks.checkpoint.rule='greater' or 'less', or "
                f'save_best to None or another one of {_listed(metrics)}.') from None


def _check_name(where: str, name: str, metrics: Dict[str, Any]) -> None:
    if name not in metrics:
        raise UserError(f'{where} is {name!r}, but the validation gives {_listed(metrics)}.'
                        f'{did_you_mean(name, metrics)}')
    value = metrics[name]
    number = isinstance(value, (int, float)) or getattr(value, 'size', None) == 1 or (
        isinstance(value, torch.Tensor) and value.numel() == 1)
    if not number:
        raise UserError(
            f'{where} is {name!r}, which is no number but a {type(value).__name__}. Take another '
            f'one of {_listed(metrics)}.')


def _listed(names: Collection[str]) -> str:
    return ', '.join(map(repr, names)) or 'nothing'
