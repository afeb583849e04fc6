# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Write the report of a run, finished or not: one HTML file that needs nothing else.

It shows the schedule, loss and accuracy over training time, each search with
its choice, and where the seconds went. Nothing of the run is executed.
"""
import argparse
import os.path as osp
import sys

# Works from a checkout that is not installed, too.
sys.path.insert(0, osp.join(osp.dirname(osp.abspath(__file__)), '..'))

import autoprog_mm  # noqa: E402, F401  isort: skip  (before anything that imports torchvision)

from autoprog_mm.launch import exit_on_user_error, parse  # noqa: E402
from autoprog_mm.report import build_page, check_comparable, read_run  # noqa: E402
from autoprog_mm.utils import UserError, write_atomically  # noqa: E402


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dir', metavar='WORK_DIR', help='work directory of the run')
    parser.add_argument(
        '--baseline',
        metavar='WORK_DIR',
        help='work directory of a run to compare with, of the same data, epochs, batch and seed')
    parser.add_argument(
        '--out', metavar='FILE', help='the file to write; by default WORK_DIR/report.html')
    return parse(parser)


def main() -> None:
    args = parse_args()
    out = osp.join(args.work_dir, 'report.html') if args.out is None else args.out
    run = read_run(args.work_dir)
    baseline = None if args.baseline is None else read_run(args.baseline)
    if baseline is not None:
        check_comparable(run, baseline)
    page = build_page(run, baseline)
    try:
        write_atomically(out, page)
    except OSError as error:
        raise UserError(f'--out: {out!r} cannot be written ({error.strerror}): give another '
                        'file.') from error
    print(f'Wrote {out}')


if __name__ == '__main__':
    with exit_on_user_error():
        main()
