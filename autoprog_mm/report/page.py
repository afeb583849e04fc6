# Copyright (c) the autoprog_mm authors. All rights reserved.
"""The report: one HTML file that needs nothing else."""
import functools
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from ..record.ledger import ACCOUNTS
from ..record.run import Run, Search, Stage
from . import compare, pictures, texts
from .colors import DARK, LIGHT

# Exponents closer than this, relatively, are the same.
_ROUNDING = 1e-6


class Table(NamedTuple):
    """Heads, and rows of cells with the row's CSS class, ``''`` for none."""

    heads: Sequence[str]
    rows: Sequence[Tuple[Sequence[str], str]]


def build_page(run: Run, baseline: Optional[Run] = None) -> str:
    """The report of a run.

    Args:
        run (Run): The run.
        baseline (Run, optional): What it is compared with; see
            :func:`check_comparable`. Defaults to None.

    Returns:
        str: A complete HTML document with its pictures inside.
    """
    return _template().render(
        name=run.name,
        light=_variables(LIGHT),
        dark=_variables(DARK),
        about=_about(run),
        finished=run.finished,
        state=_state(run),
        figures=_figures(run, baseline),
        is_old=run.settings is None,
        differences=[] if baseline is None else compare.other_differences(run, baseline),
        has_begun=bool(run.stages),
        **(_sections(run, baseline) if run.stages else {}),
        settings=_settings(run, baseline))


@functools.cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader(__package__), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    return environment.get_template('page.html.jinja')


def _variables(colors: Dict[str, str]) -> str:
    return ' '.join(f'--{name}: {color};' for name, color in colors.items())


def _sections(run: Run, baseline: Optional[Run]) -> dict:
    """What there is to show of a run that has begun."""
    return dict(
        schedule=dict(picture=pictures.draw_schedule(run, baseline), table=_schedule(run)),
        curves=dict(picture=pictures.draw_curves(run, baseline), **_notes(run, baseline)),
        searches=[_search(stage) for stage in run.stages if stage.search is not None],
        accounts=dict(picture=pictures.draw_accounts(run, baseline),
                      table=_accounts(run, baseline)),
        growths=_growths(run))


# ----------------------------------------------------------------- the header


def _about(run: Run) -> List[str]:
    about = [f'{run.model}, at full size {texts.of_subnet(run.full)} (depth × pixels)']
    if run.settings is not None:
        about += [f'{run.settings["samples"]:,} training images', f'seed {run.settings["seed"]}']
    return about


def _state(run: Run) -> str:
    if run.budget is not None:
        return f'{_end(run)}; planned to cost 1/{run.budget["speedup"]:g} of its recipe, by ' \
            f'{run.budget["of"]}'
    return _end(run)


def _end(run: Run) -> str:
    if run.finished:
        return 'Finished' + (f', {run.epochs} epochs' if run.epochs else '')
    if run.stopped_after is not None:
        return f'Stopped early, after {run.stopped_after} epochs' + (
            f' of {run.epochs}' if run.epochs else '')
    return f'Not finished: {run.epochs_done} ' + (
        f'of {run.epochs} epochs are in the log' if run.epochs else 'epochs are in the log')


def _figures(run: Run, baseline: Optional[Run]) -> List[Tuple[str, str, str]]:
    """Name, value and explanation of the main figures."""
    where = 'no validation in the log'
    if run.validations:
        where = f'last validation, after epoch {run.validations[-1].epoch}'
    figures = [('Top-1', texts.of_percent(run.top1), where),
               ('Training time', texts.of_seconds(run.train_seconds),
                'all but validation' if run.train_seconds < texts.LONG else
                f'{texts.of_number(run.train_seconds, 0)} s, all but validation')]
    if baseline is None:
        return figures
    speed_up, gain = compare.speed_up(run, baseline), compare.gain(run, baseline)
    waiting = ' and '.join(_names(run, baseline, lambda one: not one.finished))
    waiting = f'{waiting} not finished' if waiting else 'no top-1 to compare'
    figures.append(
        ('Speed-up', texts.NONE if speed_up is None else f'{speed_up:.2f}×',
         waiting if speed_up is None else
         f'the baseline took {texts.of_number(baseline.train_seconds, 1)} s'))
    figures.append(
        ('Top-1 against the baseline', texts.of_difference(gain),
         waiting if gain is None else
         f'points: the baseline has {texts.of_percent(baseline.top1)}, with the same seed'))
    return figures


# --------------------------------------------------------------- the sections


def _schedule(run: Run) -> Table:
    return Table(
        ['Stage', 'Epochs', 'Depth', 'Pixels', 'Chosen by', 'Training s'],
        [([stage.number, f'{stage.begin_epoch + 1} to {stage.end_epoch}', stage.subnet.depth,
           stage.subnet.resolution, _chosen_by(run, stage),
           texts.of_number(stage.train_seconds, 1)], '') for stage in run.stages])


def _chosen_by(run: Run, stage: Stage) -> str:
    if stage.search is not None:
        return 'search'
    # A search that goes on is not in the record yet.
    is_open = stage is run.stages[-1] and not run.finished
    return 'schedule, or not yet' if is_open else 'schedule'


def _notes(run: Run, baseline: Optional[Run]) -> Dict[str, str]:
    """Of which runs the page must say how their losses are drawn."""
    kinds = dict(
        interpolated=lambda one: one.losses_placed == 'interpolated',
        unknown=lambda one: one.losses_placed == 'unknown',
        averaged=lambda one: len(one.losses) > pictures.MAX_POINTS,
        gaps=lambda one: any(loss is None for _, loss in one.losses))
    return {kind: ' and '.join(_names(run, baseline, is_kind)) for kind, is_kind in kinds.items()}


def _names(run: Run, baseline: Optional[Run], is_kind) -> List[str]:
    return [name for one, name in ((run, 'this run'), (baseline, 'the baseline'))
            if one is not None and is_kind(one)]


def _search(stage: Stage) -> dict:
    search, fitted = stage.search, stage.search.fitted
    shown = search.drawable or search.candidates
    unit, name = texts.cost_unit([search.cost(c) for c in shown], search.by_time)
    return dict(
        stage=stage.number,
        epochs=search.epochs,
        rule=search.rule,
        # The trend's loss at a cost of one unit.
        level=None if search.scale is None else f'{search.trend(unit):.4g}',
        w=f'{search.w:.4g}' if search.w else None,
        unit=name,
        fitted=None if fitted is None else f'{fitted:.4g}',
        raised=fitted is not None and fitted < search.w * (1 - _ROUNDING),
        picture=pictures.draw_search(search, stage.number) if search.drawable else None,
        table=_candidates(search))


def _candidates(search: Search) -> Table:
    unit, name = texts.cost_unit([c.flops for c in search.candidates], by_time=False)
    heads = ['Candidate', 'Loss', 'Off the trend', 'Score', name]
    if search.by_time:
        time_unit, time_name = texts.cost_unit([c.time for c in search.candidates], by_time=True)
        heads.append(f'Step in {time_name}')
    rows = []
    for c in search.candidates:
        off = None if c not in search.drawable else \
            100 * (c.loss / search.trend(search.cost(c)) - 1)
        row = [texts.of_subnet(c.subnet) + (' (choice)' if c.chosen else ''),
               'not finite' if c.loss is None else texts.of_number(c.loss),
               texts.NONE if off is None else f'{texts.of_difference(off)} %',
               texts.NONE if c.score is None else f'{c.score:.4g}', texts.of_amount(c.flops / unit)]
        row += [texts.of_amount(c.time / time_unit)] if search.by_time else []
        rows.append((row, 'marked' if c.chosen else ''))
    return Table(heads, rows)


def _accounts(run: Run, baseline: Optional[Run]) -> Table:

    def cells(name: str, seconds: Dict[str, float], of=lambda s: texts.of_number(s, 1)) -> list:
        return [name, *(of(seconds[account]) for account in ACCOUNTS),
                of(sum(seconds.values()) - seconds['val'])]

    total = pictures.total_seconds(run)
    whole = sum(total.values()) or 1.
    rows = [(cells(f'Stage {stage.number}', stage.seconds), '') for stage in run.stages]
    rows += [(cells('This run', total), 'total'),
             (cells('Share', total, lambda s: f'{100 * s / whole:.1f} %'), '')]
    if baseline is not None:
        rows.append((cells('Baseline', pictures.total_seconds(baseline)), ''))
    names = (pictures.ACCOUNT_NAMES[account].capitalize() for account in ACCOUNTS)
    return Table(['', *names, 'All but validation'], rows)


def _growths(run: Run) -> Optional[Table]:
    rows = []
    for stage in run.stages:
        growth = stage.growth
        if growth is None:
            continue
        before, after = growth.loss_before, growth.loss_after
        rows.append(([
            stage.number, growth.operator, texts.of_subnet(growth.before),
            texts.of_subnet(growth.after), texts.of_number(before), texts.of_number(after),
            texts.of_difference(None if None in (before, after) else after - before, 4),
            f'{stage.seconds["growth"]:.3f}'
        ], ''))
    return Table(['Stage', 'Operator', 'From', 'To', 'Loss before', 'After', 'Change', 'Seconds'],
                 rows) if rows else None


def _settings(run: Run, baseline: Optional[Run]) -> Table:
    runs = [run] if baseline is None else [run, baseline]
    settings = [compare.all_settings(one) for one in runs]
    rows = []
    for key in {key: None for one in settings for key in one}:
        values = [one.get(key) for one in settings]
        values = [texts.NONE if value is None else str(value) for value in values]
        rows.append(([key, *values], 'total' if len(set(values)) > 1 else ''))
    rows.append((['folder', *(one.work_dir for one in runs)], ''))
    return Table(['Setting', 'This run', 'Baseline'][:1 + len(runs)], rows)
