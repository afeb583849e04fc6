# Copyright (c) the autoprog_mm authors. All rights reserved.
"""The report: one HTML file that needs nothing else."""
from html import escape
from typing import Any, List, Optional, Sequence

from ..record.ledger import ACCOUNTS
from ..record.run import Run, Search, Stage
from . import compare, pictures, texts
from .colors import variables

_STYLE = f'''
:root {{ color-scheme: light dark; {variables(dark=False)} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {variables(dark=True)} }} }}
* {{ box-sizing: border-box; }}
body {{
  margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 62rem;
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  color: var(--ink); background: var(--page);
}}
h1 {{ margin: 0; font-size: 1.7rem; line-height: 1.25; overflow-wrap: anywhere; }}
h2 {{ margin: 3rem 0 .4rem; font-size: 1.2rem; }}
h3 {{ margin: 1.8rem 0 .2rem; font-size: 1rem; }}
p {{ margin: .4rem 0; max-width: 46rem; }}
.soft {{ color: var(--soft); }}
.state {{
  display: inline-block; margin: .6rem 0 0; padding: .1rem .7rem; border-radius: 1rem;
  border: 1px solid currentcolor; font-size: .9rem;
}}
.open {{ color: var(--choice); }}
.figures {{
  display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .8rem;
  margin: 1.4rem 0;
}}
.figures div {{ padding: .8rem 1rem; border-radius: .6rem; background: var(--card); }}
.figures dt {{ color: var(--soft); font-size: .9rem; }}
.figures dd {{ margin: 0; }}
.figures .value {{ font-size: 1.7rem; font-weight: 600; line-height: 1.35; }}
.figures .more {{ color: var(--soft); font-size: .85rem; line-height: 1.35; }}
.note {{ padding: .5rem .9rem; border-left: 3px solid var(--choice); background: var(--card); }}
.wide {{ overflow-x: auto; margin: .8rem 0; }}
.wide svg {{ display: block; width: 100%; min-width: 38rem; height: auto; }}
.search {{ display: grid; grid-template-columns: minmax(0, 5fr) minmax(0, 6fr); gap: 1.2rem; }}
.search svg {{ min-width: 20rem; }}
.search table {{ font-size: .85rem; }}
.search th, .search td {{ padding-right: .45rem; }}
@media (max-width: 52rem) {{ .search {{ grid-template-columns: minmax(0, 1fr); gap: 0; }} }}
sup {{ line-height: 0; }}
svg text {{ font-family: inherit !important; }}
table {{ border-collapse: collapse; font-size: .92rem; }}
th, td {{ padding: .3rem .8rem .3rem 0; text-align: left; vertical-align: top; }}
th {{ color: var(--soft); font-weight: 500; border-bottom: 1px solid var(--line); }}
td {{ border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums; }}
td + td, th + th {{ padding-left: .3rem; }}
.numbers td + td, .numbers th + th {{ text-align: right; white-space: nowrap; }}
.marked td {{ font-weight: 600; color: var(--choice); }}
.total td {{ font-weight: 600; }}
.settings td {{ overflow-wrap: anywhere; }}
.settings td:first-child, .search td {{ white-space: nowrap; }}
@media print {{ body {{ padding: 0; }} section {{ break-inside: avoid; }} }}
'''
# The browser itself refuses whatever would be loaded.
# Exponents closer than this, relatively, are the same.
_ROUNDING = 1e-6
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def build_page(run: Run, baseline: Optional[Run] = None) -> str:
    """The report of a run.

    Args:
        run (Run): The run.
        baseline (Run, optional): What it is compared with; see
            :func:`check_comparable`. Defaults to None.

    Returns:
        str: A complete HTML document with its pictures inside.
    """
    parts = [_headline(run, baseline)]
    if run.stages:
        parts += [_schedule(run, baseline), _curves(run, baseline), _searches(run),
                  _accounts(run, baseline), _growths(run)]
    else:
        parts.append('<p>No stage has begun, so there is nothing to draw yet.</p>')
    parts.append(_settings(run, baseline))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(run.name)}: report</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n' +
        '\n'.join(parts) + '\n</body>\n</html>\n')


# ------------------------------------------------------------------- sections


def _headline(run: Run, baseline: Optional[Run]) -> str:
    about = [f'{run.model}, at full size {texts.of_subnet(run.full)} (depth × pixels)']
    if run.settings is not None:
        about.append(f'{run.settings["samples"]:,} training images')
        about.append(f'seed {run.settings["seed"]}')
    lines = [
        '<header>', f'<h1>{escape(run.name)}</h1>',
        f'<p class="soft">{escape(" · ".join(about))}</p>',
        f'<span class="state{"" if run.finished else " open"}">{_state(run)}</span>',
        '<dl class="figures">'
    ]
    for name, value, more in _figures(run, baseline):
        lines.append(f'<div><dt>{name}</dt><dd class="value">{value}</dd>'
                     f'<dd class="more">{escape(more)}</dd></div>')
    lines.append('</dl>')
    lines += [f'<p class="note">{escape(note)}</p>' for note in _notes(run, baseline)]
    return '\n'.join(lines + ['</header>'])


def _state(run: Run) -> str:
    if run.finished:
        return 'Finished' + (f', {run.epochs} epochs' if run.epochs else '')
    return f'Not finished: {run.epochs_done} ' + (
        f'of {run.epochs} epochs are in the log' if run.epochs else 'epochs are in the log')


def _figures(run: Run, baseline: Optional[Run]) -> List[Sequence[str]]:
    """Name, value and what else there is to say of the main figures."""
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
    open_ones = [name for name, one in (('this run', run), ('the baseline', baseline))
                 if not one.finished]
    waiting = f'{" and ".join(open_ones)} not finished' if open_ones else 'no top-1 to compare'
    figures.append(
        ('Speed-up', texts.NONE if speed_up is None else f'{speed_up:.2f}×',
         waiting if speed_up is None else
         f'the baseline took {texts.of_number(baseline.train_seconds, 1)} s'))
    figures.append(
        ('Top-1 against the baseline', texts.of_difference(gain),
         waiting if gain is None else
         f'points: the baseline has {texts.of_percent(baseline.top1)}, with the same seed'))
    return figures


def _notes(run: Run, baseline: Optional[Run]) -> List[str]:
    notes = []
    if run.settings is None:
        notes.append('The record is of an older version: data, seed and batch are not in it.')
    if baseline is not None:
        differing = compare.other_differences(run, baseline)
        if differing:
            notes.append('Besides the schedule, the runs differ in ' + ', '.join(differing) +
                         '. What the figures say of the schedule is to be read with care.')
    return notes


def _schedule(run: Run, baseline: Optional[Run]) -> str:
    rows = [[
        str(stage.number), f'{stage.begin_epoch + 1} to {stage.end_epoch}', str(stage.subnet.depth),
        str(stage.subnet.resolution), _chosen_by(run, stage),
        texts.of_number(stage.train_seconds, 1)
    ] for stage in run.stages]
    return _section(
        'Schedule', '<p class="soft">What runs, over training time.</p>',
        _picture(pictures.draw_schedule(run, baseline)),
        _table(['Stage', 'Epochs', 'Depth', 'Pixels', 'Chosen by', 'Training s'], rows, 'numbers'))


def _chosen_by(run: Run, stage: Stage) -> str:
    if stage.search is not None:
        return 'search'
    # A search that goes on is not in the record yet.
    is_open = stage is run.stages[-1] and not run.finished
    return 'schedule, or not yet' if is_open else 'schedule'


def _curves(run: Run, baseline: Optional[Run]) -> str:
    says = ['Over training time, not over epochs. Top-1 is of the weights at that time, and dotted '
            'lines show where a stage begins. During a search the loss is of whichever candidate '
            'a step has drawn.']
    for kind, sentence in _ABOUT_LOSSES:
        names = [name for one, name in ((run, 'this run'), (baseline, 'the baseline'))
                 if one is not None and kind(one)]
        if names:
            says.append(sentence.format(' and '.join(names)))
    return _section('Loss and accuracy', f'<p class="soft">{escape(" ".join(says))}</p>',
                    _picture(pictures.draw_curves(run, baseline)))


_ABOUT_LOSSES = (
    (lambda run: run.losses_placed == 'interpolated',
     'The times of the losses of {} are interpolated between validations, for the log does not '
     'have them.'),
    (lambda run: run.losses_placed == 'unknown',
     'The losses of {} are left out, for the log does not say when they were.'),
    (lambda run: len(run.losses) > pictures.MAX_POINTS,
     'Neighbouring losses of {} are averaged.'),
    (lambda run: any(loss is None for _, loss in run.losses),
     'Gaps in the loss of {} are where it was not finite.'),
)


def _searches(run: Run) -> str:
    searches = [(stage.number, stage.search) for stage in run.stages if stage.search is not None]
    if not searches:
        return _section('Searches', '<p>The record has no search that has decided.</p>')
    parts = ['<p class="soft">A search trains all candidates as one network, then takes the one '
             'whose loss is furthest below the trend of loss L over cost T.</p>']
    for number, search in searches:
        picture = _picture(pictures.draw_search(search, number)) if search.drawable else \
            '<p>No candidate has a loss that can be drawn.</p>'
        parts.append(f'<h3>Stage {number}</h3>\n<p>{_trend(search)}</p>\n<div class="search">'
                     f'\n{picture}\n{_candidates(search)}\n</div>')
    return _section('Searches', *parts)


def _trend(search: Search) -> str:
    epochs = f'{search.epochs} epoch{"s" * (search.epochs != 1)}'
    if search.scale is None:
        return f'After {epochs}.'
    unit, name = texts.cost_unit([search.cost(c) for c in search.drawable], search.by_time)
    if search.w == 0:
        return f'After {epochs}: the least loss wins, for ' + (
            f'it does not fall with cost here (L = {search.scale:.4g}).'
            if search.fitted is not None else 'there are too few candidates for a trend.')
    text = (f'After {epochs}: L = {search.trend(unit):.4g} · T<sup>−{search.w:.4g}</sup>, with T '
            f'in {name}.')
    if search.fitted is None:
        return (f'{text} The exponent is of an earlier search, or <code>min_w</code>: here are too '
                'few candidates for a fit.')
    if search.fitted < search.w * (1 - _ROUNDING):
        return (f'{text} The exponent is <code>min_w</code>, for a fit gives '
                f'{search.fitted:.4g} only.')
    return text


def _candidates(search: Search) -> str:
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
        rows.append(row + ([texts.of_amount(c.time / time_unit)] if search.by_time else []))
    marks = ['marked' if c.chosen else '' for c in search.candidates]
    return _table(heads, rows, 'numbers', marks)


def _accounts(run: Run, baseline: Optional[Run]) -> str:
    heads = ['', *(pictures.ACCOUNT_NAMES[account].capitalize() for account in ACCOUNTS),
             'All but validation']

    def row(name: str, seconds: dict) -> List[str]:
        whole = sum(seconds.values())
        return [name, *(texts.of_number(seconds[account], 1) for account in ACCOUNTS),
                texts.of_number(whole - seconds['val'], 1)]

    total = pictures.total_seconds(run)
    whole = sum(total.values()) or 1.
    rows = [row(f'Stage {stage.number}', stage.seconds) for stage in run.stages]
    marks = [''] * len(rows)
    rows += [row('This run', total),
             ['Share', *(f'{100 * total[account] / whole:.1f} %' for account in ACCOUNTS),
              f'{100 * (1 - total["val"] / whole):.1f} %']]
    marks += ['total', '']
    if baseline is not None:
        rows.append(row('Baseline', pictures.total_seconds(baseline)))
        marks.append('')
    return _section(
        'Where the seconds went',
        '<p class="soft">Wall time, in seconds. "Search" is a search\'s own work: its training '
        'steps are training. Saving checkpoints is training, too.</p>',
        _picture(pictures.draw_accounts(run, baseline)), _table(heads, rows, 'numbers', marks))


def _growths(run: Run) -> str:
    growths = [(stage, stage.growth) for stage in run.stages if stage.growth is not None]
    if not growths:
        return _section('Growths', '<p>The record has no growth.</p>')
    rows = []
    for stage, growth in growths:
        both = None not in (growth.loss_before, growth.loss_after)
        rows.append([
            str(stage.number), growth.operator, texts.of_subnet(growth.before),
            texts.of_subnet(growth.after),
            texts.of_number(growth.loss_before), texts.of_number(growth.loss_after),
            texts.of_difference(growth.loss_after - growth.loss_before if both else None, 4),
            f'{stage.seconds["growth"]:.3f}'
        ])
    return _section(
        'Growths',
        '<p class="soft">The loss right before and right after a growth, on the same training '
        'images. A stage with a search grows to the largest candidate.</p>',
        _table(['Stage', 'Operator', 'From', 'To', 'Loss before', 'After', 'Change', 'Seconds'],
               rows, 'numbers'))


def _settings(run: Run, baseline: Optional[Run]) -> str:
    here = compare.all_settings(run)
    there = {} if baseline is None else compare.all_settings(baseline)
    rows, marks = [], []
    for key in {**here, **there}:
        row = [key, _plain(here.get(key))]
        if baseline is not None:
            row.append(_plain(there.get(key)))
        rows.append(row)
        marks.append('total' if len(set(row[1:])) > 1 else '')
    rows.append(['folder', run.work_dir] + ([] if baseline is None else [baseline.work_dir]))
    marks.append('')
    heads = ['Setting', 'This run'] + ([] if baseline is None else ['Baseline'])
    return _section('Settings', _table(heads, rows, 'settings', marks))


# ---------------------------------------------------------------------- parts


def _section(title: str, *parts: str) -> str:
    return '\n'.join([f'<section>\n<h2>{title}</h2>', *parts, '</section>'])


def _picture(svg: str) -> str:
    return f'<div class="wide">\n{svg}\n</div>'


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], kind: str,
           marks: Optional[Sequence[str]] = None) -> str:
    """A table; each row has the class that ``marks`` gives it, if any."""
    lines = [f'<div class="wide"><table class="{kind}">', _row('th', heads)]
    lines += [_row('td', row, mark) for row, mark in zip(rows, marks or [''] * len(rows))]
    return '\n'.join(lines + ['</table></div>'])


def _row(tag: str, cells: Sequence[str], mark: str = '') -> str:
    inside = ''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)
    return f'<tr class="{mark}">{inside}</tr>' if mark else f'<tr>{inside}</tr>'


def _plain(value: Any) -> str:
    return texts.NONE if value is None else str(value)
