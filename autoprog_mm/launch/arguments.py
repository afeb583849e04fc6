# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Command-line arguments that tools have in common."""
import argparse
import difflib
import os

from mmengine.config import DictAction

from ..utils.errors import UserError
from .errors import SHOW_TRACEBACK


class OptionsAction(DictAction):
    """mmengine's action for key=value, which has no words for what isn't.

    Given several times, all keys count.
    """

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        for value in values:
            key, equals, _ = value.partition('=')
            if not key or not equals:
                raise UserError(
                    f'{option_string} takes key=value, without spaces around the =, but got '
                    f'{value!r}.' + (f' Did you mean {key}=...?' if key else ''))
        before = getattr(namespace, self.dest, None) or {}
        super().__call__(parser, namespace, values, option_string)
        setattr(namespace, self.dest, {**before, **getattr(namespace, self.dest)})


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line, with a sentence for what is not known.

    Args:
        parser (ArgumentParser): With all arguments.

    Returns:
        Namespace: The arguments.

    Raises:
        UserError: For an unknown argument; says what may be meant.
    """
    args, unknown = parser.parse_known_args()
    if not unknown:
        return args
    name, equals, value = unknown[0].partition('=')
    known = list(parser._option_string_actions)
    near = difflib.get_close_matches(name.replace('_', '-'), known, n=1, cutoff=0.7)
    key = name.lstrip('-').replace('-', '_')
    if near and name.startswith('-'):
        hint = f' Did you mean {near[0]}?'
    elif '--cfg-options' in known and (equals or name.startswith('-')) and key:
        if not equals and len(unknown) > 1 and not unknown[1].startswith('-'):
            value = unknown[1]
        hint = f' Did you mean --cfg-options {key}={value or "..."}?'
    else:
        hint = ' --help lists all.'
    raise UserError(f'There is no argument {name}.{hint}')


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
    args = parse(parser)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args
