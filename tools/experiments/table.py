# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Make Markdown tables of the results of suites.

A file's tables stand between `<!-- table: SUITE NAME -->` and `<!-- end -->`;
with --into they are replaced there. Differences are paired by seed.
"""
import argparse
import os.path as osp
import re
import signal
import sys
from statistics import mean
from typing import Dict, List

# Ctrl-C while libraries are imported, which takes seconds, just ends it.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler and __name__ == '__main__':
    signal.signal(signal.SIGINT, signal.SIG_DFL)
# Works from a checkout that is not installed, too.
sys.path.insert(0, osp.join(osp.dirname(osp.realpath(__file__)), '..', '..'))

from paired import paired, spread
from results import read_results

from autoprog_mm import Subnet
from autoprog_mm.launch import Parser, exit_on_user_error
from autoprog_mm.utils import UserError, write_atomically

PLACE = re.compile(r'(<!-- table: (\S+) (.+?) -->\n)(.*?)(<!-- end -->)', re.S)


class Results:
    """The results of a suite.

    Args:
        path (str): The file that ``run.py`` has written.

    Raises:
        UserError: If it isn't one.
    """

    def __init__(self, path: str) -> None:
        data = read_results(path)
        self.suite: str = data['suite']
        self.seeds: List[int] = data['seeds']
        self.tables: Dict[str, dict] = {table['name']: table for table in data['tables']}
        self.runs: Dict[str, Dict[int, dict]] = {}
        for run in data['runs']:
            self.runs.setdefault(run['arm'], {})[run['seed']] = run

    def column(self, arm: str, key: str) -> Dict[int, float]:
        """A figure of an arm's runs, by seed."""
        return {seed: run[key] for seed, run in self.runs[arm].items()}

    # -------------------------------------------------------------- the tables

    def table(self, name: str) -> str:
        """A table as Markdown.

        Args:
            name (str): One of the suite's, or ``'machine'`` or ``'runs'``.

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
        return getattr(self, f'_{table.get("kind", "compare")}')(table).lstrip('\n')

    def _compare(self, table: dict) -> str:
        """Top-1 and seconds of some arms, against the first of them."""
        names = [arm for arm in table['arms'] if arm in self.runs]
        reference = table['arms'][0]
        if len(names) < 2 or reference not in self.runs:
            return self._missing(table)
        rows = [['run', 'seeds', 'top-1 in %', f'less {reference}, 95 % interval',
                 'training seconds', 'speed-up', 'least to most']]
        for arm in names:
            top1, seconds = self.column(arm, 'top1'), self.column(arm, 'train_seconds')
            row = [arm, str(len(top1)), spread(list(top1.values())), '',
                   spread(list(seconds.values()), 1), '', '']
            if arm != reference:
                row[3] = str(paired(top1, self.column(reference, 'top1')) or '')
                row[5:] = self._speed_up(seconds, self.column(reference, 'train_seconds'))
            rows.append(row)
        return markdown(rows) + self._missing(table)

    def _missing(self, table: dict) -> str:
        """Which of a table's runs there are no results of."""
        lines = []
        for arm in table['arms']:
            missing = [seed for seed in self.seeds if seed not in self.runs.get(arm, {})]
            if missing:
                lines.append(f'{arm} (seeds {", ".join(map(str, missing))})'
                             if arm in self.runs else arm)
        return f'\nNot run: {"; ".join(lines)}.\n' if lines else ''

    @staticmethod
    def _speed_up(ours: Dict[int, float], theirs: Dict[int, float]) -> List[str]:
        seeds = sorted(set(ours) & set(theirs))
        if not seeds:
            return ['', '']
        # Of the sums: a mean of ratios would weigh a slow moment of the machine twice.
        ratio = sum(theirs[seed] for seed in seeds) / sum(ours[seed] for seed in seeds)
        each = [theirs[seed] / ours[seed] for seed in seeds]
        return [f'{ratio:.2f}', f'{min(each):.2f} to {max(each):.2f}']

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


def fill(text: str, suites: Dict[str, Results]) -> str:
    """Replace the tables of a page whose suites are given.

    Args:
        text (str): The page.
        suites (dict[str, Results]): Results by the names of their suites.

    Returns:
        str: The page with new tables.
    """

    def table(match: re.Match) -> str:
        begin, suite, name, _, end = match.groups()
        return begin + '\n' + suites[suite].table(name) + '\n' + end \
            if suite in suites else match.group()

    return PLACE.sub(table, text)


def parse_args() -> argparse.Namespace:
    parser = Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('results', nargs='+', metavar='RESULTS.json', help="files of run.py")
    parser.add_argument('--into', metavar='PAGE.md', help='page whose tables are replaced')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    suites = {results.suite: results for results in map(Results, args.results)}
    if args.into:
        with open(args.into, encoding='utf-8') as file:
            text = file.read()
        write_atomically(args.into, fill(text, suites))
        return
    for results in suites.values():
        for name in ('machine', *results.tables, 'runs'):
            print(f'### {results.suite}: {name}\n\n{results.table(name)}')


if __name__ == '__main__':
    with exit_on_user_error():
        main()
