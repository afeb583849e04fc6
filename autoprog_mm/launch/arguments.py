# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Command-line arguments that tools have in common."""
import argparse
import os

from mmengine.config import DictAction

from .errors import SHOW_TRACEBACK


class OptionsAction(DictAction):
    """mmengine's action for key=value, which has no words for what isn't."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        for value in values:
            if '=' not in value:
                parser.error(f'{option_string} takes key=value, but got {value!r}.')
        super().__call__(parser, namespace, values, option_string)


def add_speedup(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--speedup``.

    Args:
        parser (ArgumentParser): With a tool's own arguments.
    """
    parser.add_argument(
        '--speedup',
        type=float,
        help='train in this part of what the recipe costs at full size; sets speedup of '
        'AutoProgHook')


def parse_with_common(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line, with the options that all tools have added.

    Args:
        parser (ArgumentParser): With a tool's own arguments.

    Returns:
        Namespace: All arguments.
    """
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=OptionsAction,
        help='override settings of the config, such as train_cfg.max_epochs=10 or '
        'custom_hooks.0.search.epochs=1; lists as key="[a,b]" or key=a,b')
    parser.add_argument('--amp', action='store_true', help='enable automatic mixed precision')
    parser.add_argument(
        '--no-pin-memory',
        action='store_true',
        help='disable the pin_memory option in dataloaders')
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='job launcher')
    # torch.distributed.launch passes this.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    parser.epilog = (
        f'A mistake in config or data is told in a sentence; with {SHOW_TRACEBACK}=1 in the '
        'environment, with its stack trace.')
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args
