# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Train the baseline and AutoProg on MNIST5k, and compare them.

Both get the same data, epochs, batch, augmentation, optimizer and seed; only
growth differs. Prints a table and draws a picture of the schedule with the
accuracy over time.
"""
import argparse
import json
import os.path as osp
import subprocess
import sys
from glob import glob
from typing import List

HERE = osp.dirname(osp.abspath(__file__))
CONFIGS = {
    'baseline': 'configs/baseline/deit-micro_baseline_mnist5k.py',
    'autoprog': 'configs/autoprog/deit-micro_mnist5k.py',
}
# What of a run's log is shown.
SHOWN = ('Stage ', 'Search of', '  depth ', 'Epoch(val)')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seed', type=int, default=0, help='seed of both runs')
    parser.add_argument(
        '--work-dir', default='work_dirs/demo', help='folder for the runs and the picture')
    return parser.parse_args()


def train(name: str, config: str, work_dir: str, seed: int) -> dict:
    """Train in a process of its own, showing the main lines of its log.

    Returns:
        dict: The run's ``record`` and its validations as ``(epoch, training
        seconds, top-1)``.
    """
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
        if text.startswith(SHOWN):
            print(text, flush=True)
    if process.wait() != 0:
        raise SystemExit(f'{"".join(tail)}\n{name} failed; the end of its log is above.')
    with open(osp.join(work_dir, 'autoprog.json'), encoding='utf-8') as file:
        record = json.load(file)
    return dict(record=record, validations=read_validations(work_dir))


def read_validations(work_dir: str) -> List[tuple]:
    """Epoch, training seconds and top-1 of each validation of the latest run."""
    scalars = max(glob(osp.join(work_dir, '*', 'vis_data', 'scalars.json')))
    with open(scalars, encoding='utf-8') as file:
        rows = [json.loads(line) for line in file]
    return [(row['step'], row['train_seconds'], row['accuracy/top1']) for row in rows
            if 'accuracy/top1' in row]


def describe(record: dict) -> str:
    return '  '.join(f'{stage["subnet"]["depth"]}x{stage["subnet"]["resolution"]}'
                     for stage in record['stages'])


def print_table(runs: dict) -> None:
    base = runs['baseline']['record']['train_seconds']
    print('\n{:<10} {:>7} {:>17} {:>9}   {}'.format('run', 'top-1', 'training seconds', 'speed-up',
                                                 'stages (depth x resolution)'))
    for name, run in runs.items():
        seconds = run['record']['train_seconds']
        print('{:<10} {:>6.2f}% {:>17.1f} {:>8.2f}x   {}'.format(
            name, run['validations'][-1][2], seconds, base / seconds, describe(run['record'])))


def draw(runs: dict, path: str) -> None:
    """Draw depth and resolution over time, and accuracy over time."""
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(8, 6.5), sharex=True, height_ratios=(2, 3), layout='constrained')
    right = top.twinx()
    for color, (name, run) in zip(('tab:gray', 'tab:blue'), runs.items()):
        time = 0.
        times, depths, sizes = [], [], []
        for stage in run['record']['stages']:
            for moment in (time, time + sum(stage['seconds'].values()) - stage['seconds']['val']):
                times.append(moment)
                depths.append(stage['subnet']['depth'])
                sizes.append(stage['subnet']['resolution'])
            time = times[-1]
        top.plot(times, depths, color=color, label=f'{name}: depth')
        right.plot(times, sizes, color=color, linestyle='--', label=f'{name}: resolution')
        _, seconds, accuracy = zip(*run['validations'])
        bottom.plot(seconds, accuracy, color=color, marker='.', label=name)
    top.set_ylabel('depth (solid)')
    right.set_ylabel('resolution in px (dashed)')
    top.set_ylim(bottom=0)
    right.set_ylim(bottom=0)
    bottom.set_ylabel('top-1 in %')
    bottom.set_xlabel('training seconds')
    bottom.grid(alpha=0.3)
    bottom.legend(loc='lower right')
    top.set_title('DeiT-micro on MNIST5k: what runs, and how accurate it is')
    figure.savefig(path, dpi=120)


def main() -> None:
    args = parse_args()
    runs = {
        name: train(name, config, osp.join(args.work_dir, name), args.seed)
        for name, config in CONFIGS.items()
    }
    print_table(runs)
    picture = osp.join(args.work_dir, 'demo.png')
    draw(runs, picture)
    print(f'\nPicture: {picture}\nRecords: ' +
          ', '.join(osp.join(args.work_dir, name, 'autoprog.json') for name in runs))


if __name__ == '__main__':
    main()
