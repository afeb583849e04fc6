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
    figure, axes = plt.subplots(
        3, 1, figsize=(8, 7.5), sharex=True, height_ratios=(2, 2, 5), layout='constrained')
    # The baseline is drawn wide and first, so that it shows where both agree.
    for (name, run), color, width in zip(runs.items(), ('silver', 'tab:blue'), (5, 1.8)):
        begin, times, depths, sizes = 0., [], [], []
        for stage in run['record']['stages']:
            end = begin + sum(stage['seconds'].values()) - stage['seconds']['val']
            times += [begin, end]
            depths += [stage['subnet']['depth']] * 2
            sizes += [stage['subnet']['resolution']] * 2
            begin = end
        _, seconds, accuracy = zip(*run['validations'])
        for axis, x, y in zip(axes, (times, times, seconds), (depths, sizes, accuracy)):
            axis.plot(x, y, color=color, linewidth=width, label=name)
    for axis, label in zip(axes, ('depth', 'resolution in px', 'top-1 in %')):
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0].set_title('DeiT-micro on MNIST5k: what runs, and how accurate it is')
    axes[-1].set_xlabel('training seconds')
    axes[-1].legend(loc='lower right')
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
