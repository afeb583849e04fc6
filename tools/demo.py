# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Train the baseline and AutoProg on MNIST5k, and compare them.

Both get the same data, epochs, batch, augmentation, optimizer and seed; only
growth differs. Prints a table and draws a picture of the schedule with the
accuracy over time.
"""
import argparse
import os.path as osp
import re
import signal
import subprocess
import sys
from typing import Dict, List

# Ctrl-C while libraries are imported, which takes seconds, just ends it.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler and __name__ == '__main__':
    signal.signal(signal.SIGINT, signal.SIG_DFL)
# Works from a checkout that is not installed, too.
sys.path.insert(0, osp.join(osp.dirname(osp.realpath(__file__)), '..'))

import autoprog_mm  # noqa: E402, F401  isort: skip  (before anything that imports torchvision)

from autoprog_mm.launch import Parser, exit_on_user_error  # noqa: E402
from autoprog_mm.record.ledger import RECORD_FILE  # noqa: E402
from autoprog_mm.report import Run, read_run, save_picture, speed_up  # noqa: E402

HERE = osp.dirname(osp.abspath(__file__))
CONFIGS = {
    'baseline': 'configs/baseline/deit-micro_baseline_mnist5k.py',
    'autoprog': 'configs/autoprog/deit-micro_mnist5k.py',
}
# Lines of a run's log that are shown; the third are candidates of a search.
SHOWN = re.compile(r'Stage |Grew |Search of | +\d+x\d+  loss |Epoch\(val\)')


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument('--seed', type=int, default=0, help='seed of both runs')
    parser.add_argument(
        '--work-dir', default='work_dirs/demo', help='folder for the runs and the picture')
    return parser.parse_args()


def train(name: str, config: str, work_dir: str, seed: int) -> None:
    """Train in a process of its own, showing the main lines of its log."""
    command = [
        sys.executable, '-W', 'ignore',
        osp.join(HERE, 'train.py'),
        osp.join(HERE, '..', config), '--work-dir', work_dir, '--cfg-options',
        f'randomness.seed={seed}'
    ]
    print(f'\n=== {name}: tools/train.py {config}, seed {seed}', flush=True)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    tail: List[str] = []
    for line in process.stdout:
        tail = tail[-30:] + [line]
        text = line.split(' - INFO - ')[-1].rstrip()
        if SHOWN.match(text):
            print(text, flush=True)
    if process.wait() != 0:
        raise SystemExit(f'{"".join(tail)}\n{name} failed; the end of its log is above.')


def print_table(runs: Dict[str, Run]) -> None:
    print('\n{:<10} {:>7} {:>17} {:>9}   {}'.format('run', 'top-1', 'training seconds', 'speed-up',
                                                 'stages (depth x resolution)'))
    for name, run in runs.items():
        print('{:<10} {:>6.2f}% {:>17.1f} {:>8.2f}x   {}'.format(
            name, run.top1, run.train_seconds, speed_up(run, runs['baseline']),
            '  '.join(str(stage.subnet) for stage in run.stages)))


def main() -> None:
    args = parse_args()
    folders = {name: osp.join(args.work_dir, name) for name in CONFIGS}
    for name, config in CONFIGS.items():
        train(name, config, folders[name], args.seed)
    runs = {name: read_run(folder) for name, folder in folders.items()}
    print_table(runs)
    picture = osp.join(args.work_dir, 'demo.png')
    save_picture(runs['autoprog'], runs['baseline'], picture)
    print(f'\nPicture: {picture}\nRecords: ' +
          ', '.join(osp.join(folder, RECORD_FILE) for folder in folders.values()))


if __name__ == '__main__':
    with exit_on_user_error():
        main()
