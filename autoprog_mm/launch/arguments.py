# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Command-line arguments that tools have in common."""
import argparse
import ast
import os
from typing import NoReturn

from mmengine.config import DictAction

from ..utils.names import did_you_mean
from .errors import SHOW_TRACEBACK


class Parser(argparse.ArgumentParser):
    """A parser that says what a mistyped option may mean."""

    def error(self, message: str) -> NoReturn:
        """See the parent."""
        _, found, others = message.partition('unrecognized arguments: ')
        if found:
            message += '.' + self._hint(*others.split()[:2])
        super().error(message)

    def _hint(self, argument: str, following: str = '') -> str:
        name, equals, value = argument.partition('=')
        hint = did_you_mean(name, self._option_string_actions) if name.startswith('-') else ''
        key = name.lstrip('-').replace('-', '_')
        if hint or '--cfg-options' not in self._option_string_actions or not key or not (
                equals or name.startswith('-')):
            return hint or ' --help lists all.'
        if not equals and not following.startswith('-'):
            value = following
        return f' Did you mean --cfg-options {key}={value or "..."}?'


class OptionsAction(DictAction):
    """mmengine's action for key=value, which reads values as Python first.

    mmengine's own takes the spaces out of a text, knows no dicts, and has no
    words for what isn't key=value.
    """

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        """See the parent."""
        options = dict(getattr(namespace, self.dest, None) or {})
        for value in values:
            key, equals, text = value.partition('=')
            if not equals or not key:
                parser.error(f'{option_string} takes key=value, without spaces around the =, but '
                             f'got {value!r}.' + (f' Did you mean {key}=...?' if key else ''))
            try:
                options[key] = parse_value(text)
            except ValueError as error:
                parser.error(f'{option_string} {key}: {error}')
        setattr(namespace, self.dest, options)


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


def parse_value(text: str) -> object:
    """Read the value of ``--cfg-options key=value``.

    Args:
        text (str): Such as ``'3'``, ``'a,b'``, ``'[a, b]'``, ``'"a,b"'``,
            ``'/a path/b'`` or ``"[dict(type='A', b=None)]"``.

    Returns:
        object: What it is in Python, if it is something there, with ``dict()``
        and without names. Else as mmengine reads it, but for texts, which stay
        as they are.

    Raises:
        ValueError: For brackets that are not closed, or a dict that can't be
            read.
    """
    stripped = text.strip()
    try:
        value = _literal(ast.parse(stripped, mode='eval').body)
        if isinstance(value, str) and value.startswith(('[', '(')):  # quoted twice
            return parse_value(value)
        if isinstance(value, (type(...), bytes, complex, set)):  # nothing of configs
            raise ValueError
        # Without brackets mmengine makes it a list.
        return list(value) if isinstance(value, tuple) and stripped[0] != '(' else value
    except (SyntaxError, ValueError):
        brackets = stripped.startswith(('[', '(', '{', 'dict('))
        if brackets and ('dict(' in stripped or '{' in stripped):
            raise ValueError(
                f"{text!r} cannot be read. Write dicts as in Python, with quotes around texts: "
                '"key=[dict(type=\'A\', b=1)]".') from None
    if ',' not in stripped and not stripped.startswith(('[', '(')):
        value = DictAction._parse_int_float_bool(stripped)
        return text if isinstance(value, str) else value
    try:
        value = DictAction._parse_iterable(stripped)
    except AssertionError as error:
        raise ValueError(f'{error}.') from None
    if isinstance(value, str):
        raise ValueError(f'Imbalanced brackets exist in {text}.')
    return value


def _literal(node: ast.AST) -> object:
    """The value of an expression of constants, lists, tuples and dicts, also ``dict()``."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and \
            node.func.id == 'dict' and not node.args and all(item.arg for item in node.keywords):
        return {item.arg: _literal(item.value) for item in node.keywords}
    if isinstance(node, (ast.List, ast.Tuple)):
        items = [_literal(item) for item in node.elts]
        return items if isinstance(node, ast.List) else tuple(items)
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {_literal(key): _literal(item) for key, item in zip(node.keys, node.values)}
    return ast.literal_eval(node)


def parse_with_common(parser: Parser) -> argparse.Namespace:
    """Parse the command line, with the options that all tools have added.

    Args:
        parser (Parser): With a tool's own arguments.

    Returns:
        Namespace: All arguments.
    """
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=OptionsAction,
        help='override settings of the config, such as train_cfg.max_epochs=10 or '
        'custom_hooks.0.search.epochs=1; lists as key="[a,b]" or key=a,b, and a text with a comma '
        'as key=\'"a,b"\'')
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
