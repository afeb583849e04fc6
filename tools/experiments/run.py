# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Run a suite: each arm with each seed, in a process of its own, into one JSON file.

The arms of a suite train the same config; they differ in how the network
grows, and in nothing else. What is finished is not run again, and what was
interrupted goes on where it stopped. Results are of the final weights.
"""
import argparse
import os.path as osp
import signal
import sys

# Ctrl-C while libraries are imported, which takes seconds, just ends it.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler and __name__ == '__main__':
    signal.signal(signal.SIGINT, signal.SIG_DFL)
# Works from a checkout that is not installed, too.
sys.path.insert(0, osp.join(osp.dirname(osp.realpath(__file__)), '..', '..'))

from folder import make_folder
from processes import run_all, shares_of_cores
from results import check_old_results, collect_results
from suite import check_options, make_config, read_suite

from autoprog_mm.launch import OptionsAction, Parser, exit_on_user_error
from autoprog_mm.utils import UserError


def parse_args() -> argparse.Namespace:
    parser = Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('suite', metavar='SUITE.py', help='a file of configs/experiments/')
    parser.add_argument(
        '--work-dir', help='folder of the runs; by default work_dirs/experiments/SUITE')
    parser.add_argument(
        '--out', metavar='FILE', help='where results go; by default results.json in the work dir')
    parser.add_argument(
        '--arms', nargs='+', metavar='ARM', help='run only these arms; by default all')
    parser.add_argument(
        '--seeds', nargs='+', type=int, metavar='SEED', help="seeds; by default the suite's")
    parser.add_argument(
        '--jobs',
        type=int,
        default=1,
        help='runs at once. Without a GPU each gets its share of the CPU cores for itself')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=OptionsAction,
        default={},
        help='settings of all runs, such as data_root=/path/to/folder')
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    suite, place = read_suite(args.suite), osp.dirname(args.suite)
    name = osp.splitext(osp.basename(args.suite))[0]
    work_dir = args.work_dir or osp.join('work_dirs', 'experiments', name)
    out = args.out or osp.join(work_dir, 'results.json')
    arms = args.arms or list(suite['arms'])
    unknown = sorted(set(arms) - set(suite['arms']))
    if unknown:
        raise UserError(f'--arms: {unknown} are not in {args.suite}, which has '
                        f'{list(suite["arms"])}.')
    check_options('--cfg-options', args.cfg_options)
    shares_of_cores(args.jobs)
    check_old_results(suite, place, args.cfg_options, out)
    # Seed by seed, so that what is compared is also measured at about the same time.
    runs = {(arm, seed): osp.join(work_dir, arm.replace(' ', '_'), f'seed{seed}')
            for seed in (args.seeds or suite['seeds']) for arm in arms}
    todo = [(arm, seed, folder) for (arm, seed), folder in runs.items()
            if make_folder(folder, make_config(place, suite, arm, seed, args.cfg_options))]
    print(f'{name}: {len(runs)} runs, {len(todo)} of them to do, {args.jobs} at once.', flush=True)
    try:
        failed = run_all(todo, args.jobs, lambda: collect_results(suite, name, runs, out))
    except KeyboardInterrupt:
        print('Stopped. The same command goes on from here.', flush=True)
        return 130
    collect_results(suite, name, runs, out)
    print(f'Results: {out}')
    return 1 if failed else 0


if __name__ == '__main__':
    with exit_on_user_error():
        sys.exit(main())
