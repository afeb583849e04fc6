# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Make Markdown tables and curves of the results of suites.

A page's tables stand between `<!-- table: SUITE NAME -->` and `<!-- end -->`;
with --into they are replaced there. Differences are paired by seed. A curve is
drawn into an SVG file beside its results.
"""
import argparse
import os.path as osp
import re
import signal
import sys
from typing import Dict

# Ctrl-C while libraries are imported, which takes seconds, just ends it.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler and __name__ == '__main__':
    signal.signal(signal.SIGINT, signal.SIG_DFL)
# Works from a checkout that is not installed, too.
sys.path.insert(0, osp.join(osp.dirname(osp.realpath(__file__)), '..', '..'))

from tables import Results

from autoprog_mm.launch import Parser, exit_on_user_error
from autoprog_mm.utils import write_atomically

PLACE = re.compile(r'(<!-- table: (\S+) (.+?) -->\n)(.*?)(<!-- end -->)', re.S)


def fill(text: str, suites: Dict[str, Results], folder: str = '') -> str:
    """Replace the tables of a page whose suites are given.

    Args:
        text (str): The page.
        suites (dict[str, Results]): Results by the names of their suites.
        folder (str): Where the page lies. Defaults to the current one.

    Returns:
        str: The page with new tables.
    """

    def table(match: re.Match) -> str:
        begin, suite, name, _, end = match.groups()
        return begin + '\n' + suites[suite].table(name, folder) + '\n' + end \
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
    for results in suites.values():
        for path, svg in results.curves().items():
            write_atomically(path, svg)
    if args.into:
        with open(args.into, encoding='utf-8') as file:
            text = file.read()
        write_atomically(args.into, fill(text, suites, osp.dirname(args.into)))
        return
    for results in suites.values():
        for name in ('machine', *results.tables, 'runs'):
            print(f'### {results.suite}: {name}\n\n{results.table(name)}')


if __name__ == '__main__':
    with exit_on_user_error():
        main()
