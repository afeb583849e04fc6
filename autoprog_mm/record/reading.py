# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Read a run from its work directory: the record, and the log's losses and validations."""
import json
import math
import os.path as osp
from glob import escape, glob
from typing import Any, List, Optional, Tuple

import numpy as np

from ..growth.subnet import Subnet
from ..utils.errors import UserError
from .ledger import ACCOUNTS, RECORD_FILE, SCHEMA
from .run import Candidate, Growth, Run, Search, Stage, Validation

SCALARS = osp.join('*', 'vis_data', 'scalars.json')
# What a report needs of the record's 'run'.
_SETTINGS = ('seed', 'epochs', 'batch_size', 'samples', 'dataset')
_Pairs = List[Tuple[float, float]]


def read_run(work_dir: str) -> Run:
    """Read ``autoprog.json`` and all ``scalars.json`` of a work directory.

    Args:
        work_dir (str): The folder.

    Returns:
        Run: The run. The logs of a resumed run are joined.

    Raises:
        UserError: If record or log are missing or damaged.
    """
    record = read_record(work_dir)
    try:
        fields = _fields(record)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f'{osp.join(work_dir, RECORD_FILE)!r} is not as records of schema {SCHEMA} are '
            f'({type(error).__name__}: {error}): was it changed by hand?') from None
    training, validations = _read_scalars(work_dir)
    per_epoch = (fields['settings'] or {}).get('steps_per_epoch') or _steps_per_epoch(training)
    ended = fields['finished'] or fields['stopped_after'] is not None
    clock = _clock(fields['stages'], ended, validations)
    losses, placed = _losses(training, clock, per_epoch)
    if placed == 'logged' and per_epoch is not None:
        clock = _ascending(clock + [(row['step'] / per_epoch, seconds) for row, (seconds, _)
                                    in zip(training, losses)])
    return Run(
        work_dir=work_dir,
        **fields,
        validations=validations,
        losses=losses,
        losses_placed=placed,
        clock=clock)


# ----------------------------------------------------------------- the record


def read_record(work_dir: str) -> dict:
    """The content of ``autoprog.json``, with its schema checked.

    Args:
        work_dir (str): Work directory of a run.

    Returns:
        dict: See the user guide, "The record".

    Raises:
        UserError: If it is missing, is no record, or is of another schema.
    """
    if not osp.isdir(work_dir):
        raise UserError(f'There is no folder {work_dir!r}: give the work directory of a run.')
    path = osp.join(work_dir, RECORD_FILE)
    if not osp.isfile(path):
        raise UserError(
            f'{work_dir!r} has no {RECORD_FILE}: give the work directory of a run with '
            'AutoProgHook, which writes it when the first epoch begins.')
    try:
        with open(path, encoding='utf-8') as file:
            record = json.load(file)
    except ValueError as error:  # of JSON, or of UTF-8
        raise UserError(f'{path!r} is not JSON ({error}): it is no record of a run.') from None
    if not isinstance(record, dict) or 'schema' not in record:
        raise UserError(f'{path!r} has no schema number: it is no record of a run.')
    if record['schema'] not in range(1, SCHEMA + 1):  # what is new has a default
        raise UserError(
            f'{path!r} is of schema {record["schema"]!r}, but this version reads schema 1 to '
            f'{SCHEMA}: use the version that the run was made with.')
    return record


def _fields(record: dict) -> dict:
    """Arguments of a Run; a damaged record raises one of many errors."""
    settings = record.get('run')
    if settings is not None:
        missing = [key for key in _SETTINGS if key not in settings]
        if missing:
            raise KeyError(f'run.{missing[0]}')
    return dict(
        model=record['model'],
        full=Subnet(**record['full']),
        finished=record['finished'],
        stopped_after=record.get('stopped_after'),
        budget=record.get('budget'),
        train_seconds=float(record['train_seconds']),
        stages=_stages(record['stages']),
        settings=settings)


def _stages(entries: List[dict]) -> List[Stage]:
    stages: List[Stage] = []
    for entry in entries:
        search = None if entry['search'] is None else _search(entry['search'])
        stages.append(
            Stage(
                number=entry['index'] + 1,
                begin_epoch=entry['begin_epoch'],
                end_epoch=entry['end_epoch'],
                subnet=Subnet(**entry['subnet']),
                seconds={account: float(entry['seconds'][account]) for account in ACCOUNTS},
                begin_seconds=stages[-1].end_seconds if stages else 0.,
                search=search,
                growth=_growth(entry, search)))
    return stages


def _search(entry: dict) -> Search:
    return Search(
        epochs=entry['epochs'],
        w=float(entry['w']),
        candidates=[
            Candidate(
                subnet=Subnet(c['depth'], c['resolution']),
                **{key: c[key] for key in ('time', 'flops', 'loss', 'score', 'chosen')})
            for c in entry['candidates']
        ],
        rule=entry.get('rule', 'trend'))  # older ones have none


def _growth(entry: dict, search: Optional[Search]) -> Optional[Growth]:
    if entry['operator'] is None:
        return None
    # A stage with a search grows to the largest candidate.
    subnets = [Subnet(**entry['subnet'])] if search is None else \
        [candidate.subnet for candidate in search.candidates]
    compared = entry.get('growth') or {}
    return Growth(
        operator=entry['operator'],
        before=Subnet(**compared['from']) if compared else None,
        after=Subnet.covering(subnets),
        loss_before=compared.get('loss_before'),
        loss_after=compared.get('loss_after'))


# -------------------------------------------------------------------- the log


def _read_scalars(work_dir: str) -> Tuple[List[dict], List[Validation]]:
    """Training rows and validations; a resumed run has several files of them."""
    paths = sorted(glob(osp.join(escape(work_dir), SCALARS)))
    if not paths:
        raise UserError(
            f'{work_dir!r} has no {SCALARS}, which mmengine writes while a run trains: give the '
            'whole work directory.')
    training: List[dict] = []
    validations: List[Validation] = []
    for path in paths:
        rows = _read_rows(path)
        trained = [dict(row, loss=_finite(row['loss'])) for row in rows if 'loss' in row]
        validated = [
            Validation(row['step'], row['train_seconds'], _top1(row))
            for row in rows if _finite(row.get('train_seconds')) is not None
        ]
        # A resumed run repeats what came after its checkpoint: the earlier rows are void.
        if trained:
            first = trained[0]
            training = [row for row in training if row['step'] < first['step']]
            validations = [v for v in validations if v.epoch < first.get('epoch', math.inf)]
        if validated:
            validations = [v for v in validations if v.epoch < validated[0].epoch]
        training += trained
        validations += validated
    return training, validations


def _read_rows(path: str) -> List[dict]:
    with open(path, encoding='utf-8', errors='replace') as file:
        lines = file.read().splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            if number == len(lines):  # a kill leaves half a line
                break
            raise UserError(
                f'{path!r}, line {number}, is not JSON ({line[:40]!r}): delete it, or get the '
                'file as the run wrote it.') from None
    return [row for row in rows if isinstance(row, dict) and _finite(row.get('step')) is not None]


def _top1(row: dict) -> Optional[float]:
    """Of a validation, whatever prefix its metric has."""
    return next((_finite(value) for key, value in row.items()
                 if key.rpartition('/')[2] == 'top1'), None)


def _finite(value: Any) -> Optional[float]:
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None


# -------------------------------------------------------------------- seconds


def _clock(stages: List[Stage], ended: bool, validations: List[Validation]) -> _Pairs:
    """Pairs of finished epochs and training seconds, ascending."""
    known = [(0., 0.)] + [(float(stage.begin_epoch), stage.begin_seconds) for stage in stages]
    if ended and stages:
        known.append((float(stages[-1].end_epoch), stages[-1].end_seconds))
    return _ascending(known + [(float(v.epoch), v.seconds) for v in validations])


def _ascending(pairs: _Pairs) -> _Pairs:
    """Sorted by the first, without pairs at which the second falls."""
    kept: _Pairs = []
    for epoch, seconds in sorted(pairs):
        if not kept or seconds >= kept[-1][1]:
            kept.append((epoch, seconds))
    return kept


def _steps_per_epoch(training: List[dict]) -> Optional[float]:
    """An estimate: some row is near the end of its epoch."""
    return max((row['step'] / row['epoch'] for row in training if row.get('epoch')), default=None)


def _losses(training: List[dict], clock: _Pairs, steps_per_epoch: Optional[float]
            ) -> Tuple[List[Tuple[float, Optional[float]]], str]:
    """Training seconds and loss, and how the seconds were found."""
    seconds = [_finite(row.get('autoprog/train_seconds')) for row in training]
    if None not in seconds:
        return [(s, row['loss']) for s, row in zip(seconds, training)], 'logged'
    if steps_per_epoch is None or clock[-1][0] == 0:  # only the start is known
        return [], 'unknown'
    epochs, known = zip(*clock)
    placed = [(row['step'] / steps_per_epoch, row['loss']) for row in training]
    return [(float(np.interp(epoch, epochs, known)), loss) for epoch, loss in placed
            if epoch <= epochs[-1]], 'interpolated'
