# Copyright (c) the autoprog_mm authors. All rights reserved.
"""The results of a suite, as tables and curves."""
import os
import os.path as osp
from statistics import mean
from typing import Dict, List, Tuple

import numpy as np
from budgets import families, find_baseline, find_rival, is_full, speedup_of
from curve import Point, describe_curve, draw_curve
from effects import main_effects, varied
from equal import SpeedUp, speed_up_at
from paired import describe_difference, mean_difference, paired, spread
from results import read_results

from autoprog_mm import Subnet
from autoprog_mm.utils import UserError


class Results:
    """The results of a suite.

    Args:
        path (str): The file that ``run.py`` has written.

    Raises:
        UserError: If it isn't one.
    """

    def __init__(self, path: str) -> None:
        data = read_results(path)
        self.path = path
        self.suite: str = data['suite']
        self.arms: Dict[str, dict] = data['arms']
        self.seeds: List[int] = data['seeds']
        self.tables: Dict[str, dict] = {table['name']: table for table in data['tables']}
        self.runs: Dict[str, Dict[int, dict]] = {}
        for run in data['runs']:
            self.runs.setdefault(run['arm'], {})[run['seed']] = run

    def column(self, arm: str, key: str) -> Dict[int, float]:
        """A figure of an arm's runs, by seed."""
        return {seed: run[key] for seed, run in self.runs[arm].items()}

    # -------------------------------------------------------------- the tables

    def table(self, name: str, folder: str = '') -> str:
        """A table as Markdown.

        Args:
            name (str): One of the suite's, or ``'machine'`` or ``'runs'``.
            folder (str): Where the page lies, from which a picture is linked.
                Defaults to the current one.

        Returns:
            str: The table.

        Raises:
            UserError: For another name.
        """
        if name == 'machine':
            return self._machine()
        if name == 'runs':
            return self._all_runs()
        if name not in self.tables:
            raise UserError(f'{self.suite} has no table {name!r}, but machine, runs and '
                             f'{", ".join(self.tables)}.')
        table = self.tables[name]
        more = [folder] if table.get('kind') == 'curve' else []
        return getattr(self, f'_{table.get("kind", "compare")}')(table, *more).lstrip('\n')

    def _compare(self, table: dict) -> str:
        """Top-1, multiply-adds and seconds of some arms, against the first of them."""
        names = [arm for arm in table['arms'] if arm in self.runs]
        reference = table['arms'][0]
        if len(names) < 2 or reference not in self.runs:
            return self._missing(table)
        rows = [['run', 'seeds', 'top-1 in %', f'less {reference}, 95 % interval',
                 'multiply-adds saved', 'training seconds', 'seconds saved', 'least to most']]
        for arm in names:
            top1, seconds = self.column(arm, 'top1'), self.column(arm, 'train_seconds')
            row = [arm, str(len(top1)), spread(list(top1.values())), '', '',
                   spread(list(seconds.values()), 1), '', '']
            if arm != reference:
                row[3] = str(paired(top1, self.column(reference, 'top1')) or '')
                row[4] = self._saved(arm, reference, 'compute')[0]
                row[6:] = self._saved(arm, reference, 'train_seconds')
            rows.append(row)
        return markdown(rows) + self._missing(table)

    # -------------------------------------------------------------- the curves

    def curves(self) -> Dict[str, str]:
        """dict[str, str]: SVG files by their paths, of the tables that are curves."""
        found = {}
        for table in self.tables.values():
            full, grown = self._families(table)
            baseline = find_baseline(self.arms, full)
            if table.get('kind') != 'curve' or baseline is None or not grown:
                continue
            first = next(iter(grown.values()))
            seeds = self._seeds_of_all([baseline, *first])
            if seeds:
                found[self._svg(table)] = draw_curve(
                    self._lines(table), self._point(baseline), *(
                        self._speed_up_at(baseline, first, seeds, key)
                        for key in ('compute', 'train_seconds')))
        return found

    def _curve(self, table: dict, folder: str) -> str:
        """A link to the picture, if there is one."""
        path = self._svg(table)
        if path not in self.curves():
            return self._missing(table)
        place = osp.relpath(path, folder or os.curdir)
        return f'![{describe_curve(self._lines(table))}]({place})\n' + self._missing(table)

    def _svg(self, table: dict) -> str:
        return f'{osp.splitext(self.path)[0]}-{table["name"]}.svg'

    def _lines(self, table: dict) -> Dict[str, List[Point]]:
        full, grown = self._families(table)
        return {name: [self._point(arm) for arm in arms]
                for name, arms in {'full network': full, **grown}.items()}

    def _point(self, arm: str) -> Point:
        top1, compute, seconds = (
            list(self.column(arm, key).values()) for key in ('top1', 'compute', 'train_seconds'))
        return Point(arm, speedup_of(self.arms[arm]) or 1., mean(top1),
                     mean_difference(top1).half, mean(compute), mean(seconds))

    # --------------------------------------------------------------- the parts

    def _missing(self, table: dict) -> str:
        """Which of a table's runs there are no results of."""
        lines = []
        for arm in table['arms']:
            missing = [seed for seed in self.seeds if seed not in self.runs.get(arm, {})]
            if missing:
                lines.append(f'{arm} (seeds {", ".join(map(str, missing))})'
                             if arm in self.runs else arm)
        return f'\nNot run: {"; ".join(lines)}.\n' if lines else ''

    def _saved(self, arm: str, reference: str, key: str) -> List[str]:
        """How many times less an arm takes than another, in all and by seed."""
        ours, theirs = self.column(arm, key), self.column(reference, key)
        seeds = sorted(set(ours) & set(theirs))
        if not seeds:
            return ['', '']
        # Of the sums: a mean of ratios would weigh a slow moment of the machine twice.
        ratio = sum(theirs[seed] for seed in seeds) / sum(ours[seed] for seed in seeds)
        each = [theirs[seed] / ours[seed] for seed in seeds]
        return [f'{ratio:.2f}x', f'{min(each):.2f} to {max(each):.2f}']

    def _rivals(self, table: dict) -> str:
        """Arms that grow against the full network with the same speedup."""
        rows = [['speedup', 'run', 'seeds', 'top-1 in %', 'of the full network',
                 'difference, 95 % interval', 'multiply-adds saved', 'by the full network']]
        for arm in table['arms']:
            rival = find_rival(self.arms, table['arms'], arm)
            if is_full(self.arms[arm]) or not {arm, rival} <= set(self.runs):
                continue
            top1, theirs = self.column(arm, 'top1'), self.column(rival, 'top1')
            rows.append([
                f'{speedup_of(self.arms[arm]):g}', arm, f'{len(top1)} and {len(theirs)}',
                spread(list(top1.values())), spread(list(theirs.values())),
                str(paired(top1, theirs) or ''), *(
                    f'{1 / mean(self.column(name, "compute").values()):.2f}x'
                    for name in (arm, rival))])
        return markdown(rows) + self._missing(table)

    def _equal(self, table: dict) -> str:
        """How many times less growth takes to be as accurate as the full network."""
        rows = [['run', 'as accurate as', 'top-1 in %', 'multiply-adds saved, 95 % interval',
                 'seconds saved, 95 % interval', 'seeds']]
        full, others = self._families(table)
        for name, grown in others.items():
            for level in full:
                seeds = self._seeds_of_all([level, *grown])
                if seeds:
                    top1 = mean(self.runs[level][seed]['top1'] for seed in seeds)
                    rows.append([name, level, f'{top1:.2f}', *(
                        str(self._speed_up_at(level, grown, seeds, key))
                        for key in ('compute', 'train_seconds')), str(len(seeds))])
        return markdown(rows) + self._missing(table)

    def _speed_up_at(self, level: str, grown: List[str], seeds: List[int], key: str) -> SpeedUp:
        def rows(key, *arms):
            return np.array([[self.runs[arm][seed][key] for seed in seeds] for arm in arms])

        return speed_up_at(rows('top1', level)[0], rows(key, level)[0],
                           rows('top1', *grown), rows(key, *grown))

    def _families(self, table: dict) -> Tuple[List[str], Dict[str, List[str]]]:
        """Arms of the full network that ran, and those that grow, by what they have in common."""
        ran = [arm for arm in table['arms'] if arm in self.runs]
        found = families(self.arms, ran)
        full = [name for name, arms in found.items() if is_full(self.arms[arms[0]])]
        return found.pop(full[0]) if full else [], found

    def _seeds_of_all(self, arms: List[str]) -> List[int]:
        return sorted(set.intersection(*(set(self.runs[arm]) for arm in arms)))

    def _effects(self, table: dict) -> str:
        """What each setting does that differs between the arms, all runs taken together."""
        names = [arm for arm in table['arms'] if arm in self.runs]
        if not names:
            return self._missing(table)
        settings = dict(zip(names, varied([self.arms[arm] for arm in names])))
        runs = [dict(settings[arm], seed=str(seed)) for arm in names for seed in self.runs[arm]]
        top1 = [run['top1'] for arm in names for run in self.runs[arm].values()]
        found = main_effects(runs, top1)
        rows = [['setting', 'value', 'runs', 'top-1 in %', 'less the first, 95 % interval']]
        for name in settings[names[0]]:
            for value in dict.fromkeys(run[name] for run in runs):
                mine = [score for run, score in zip(runs, top1) if run[name] == value]
                more = found.get((name, value))
                rows.append([name, value, str(len(mine)), f'{mean(mine):.2f}', '' if more is None
                             else describe_difference(*more)])
        return markdown(rows) + self._missing(table)

    def _weights(self, table: dict) -> str:
        """Top-1 of momentum and online weights of the same runs."""
        rows = [['run', 'seeds', 'momentum, top-1 in %', 'online, top-1 in %',
                 'momentum less online, 95 % interval']]
        for arm in table['arms']:
            if arm in self.runs:
                momentum, online = self.column(arm, 'top1'), self.column(arm, 'top1_online')
                rows.append([arm, str(len(momentum)), spread(list(momentum.values())),
                             spread(list(online.values())), str(paired(momentum, online))])
        return markdown(rows) + self._missing(table)

    def _choices(self, table: dict) -> str:
        """What searches chose, by what trend, and what they cost."""
        rows = [['run', 'seed', 'stages (depth x resolution)', 'w', 'search in s', 'share in %']]
        for arm in table['arms']:
            for seed, run in sorted(self.runs.get(arm, {}).items()):
                record = run['record']
                searched = [stage['search'] for stage in record['stages'] if stage['search']]
                seconds = sum(stage['seconds']['search'] for stage in record['stages'])
                rows.append([
                    arm, str(seed), describe(record),
                    ', '.join(f'{search["w"]:.3f}' for search in searched) or '-',
                    f'{seconds:.1f}', f'{100 * seconds / record["train_seconds"]:.1f}'])
        return markdown(rows) + self._missing(table)

    def _ledger(self, table: dict) -> str:
        """Where the seconds of runs go, in the mean over seeds."""
        accounts = ('data', 'train', 'search', 'growth')
        rows = [['run', 'stage', *(f'{name} in s' for name in accounts)]]
        for arm in table['arms']:
            stages = [run['record']['stages'] for run in self.runs.get(arm, {}).values()]
            for index, same in enumerate(zip(*stages)):
                rows.append([arm, str(index + 1)] + [
                    f'{mean(stage["seconds"][name] for stage in same):.1f}' for name in accounts])
        return markdown(rows) + self._missing(table)

    def _all_runs(self) -> str:
        """Every run."""
        rows = [['run', 'seed', 'top-1 in %', 'online', 'training s', 'stages', 'date']]
        for arm, runs in self.runs.items():
            for seed, run in sorted(runs.items()):
                rows.append([arm, str(seed), f'{run["top1"]:.2f}', f'{run["top1_online"]:.2f}',
                             f'{run["train_seconds"]:.1f}', describe(run['record']),
                             run['date']])
        return markdown(rows)

    def _machine(self) -> str:
        """What ran where, with which versions."""
        found = []
        for runs in self.runs.values():
            for run in runs.values():
                machine, trained = run['machine'], run['record']['run']
                versions = {**trained['versions'], 'Python': machine['python']}
                text = (f'{machine["gpu"] or machine["cpu"]}, {machine["cores"]} cores, '
                        f'{run["jobs"]} runs at once with {run["cores"]} cores each; ' +
                        ', '.join(f'{name} {version}' for name, version in versions.items()))
                if text not in found:
                    found.append(text)
        dates = sorted({run['date'] for runs in self.runs.values() for run in runs.values()})
        days = dates[0] if len(dates) == 1 else f'{dates[0]} to {dates[-1]}'
        return f'{days}: ' + '; '.join(found) + '.\n'


def describe(record: dict) -> str:
    return ' '.join(str(Subnet(**stage['subnet'])) for stage in record['stages'])


def markdown(rows: List[List[str]]) -> str:
    head, *body = rows
    if not body:
        return ''
    lines = [head, ['---'] * len(head), *body]
    return ''.join(f'| {" | ".join(line)} |\n' for line in lines)
