# Copyright (c) the autoprog_mm authors. All rights reserved.
"""A user's mistake ends a tool with a sentence, an error in the program with a stack trace."""
import difflib
import inspect
import io
import os
import os.path as osp
import sys
from contextlib import contextmanager
from typing import Iterable, Iterator, Optional, Set

from mmengine.registry import Registry, build_from_cfg

from ..utils.errors import UserError

SHOW_TRACEBACK = 'AUTOPROG_TRACEBACK'
_STATUS = 2  # as of argparse


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Context in which a user's mistake ends the process with status 2.

    Its sentence is printed to stderr, without a stack trace. Other errors pass,
    and with the environment variable ``AUTOPROG_TRACEBACK=1`` all do. What
    standard output can't show, of file names say, is escaped.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='backslashreplace')
    try:
        yield
    except Exception as error:
        text = user_message(error)
        if text is None or os.environ.get(SHOW_TRACEBACK, '0') != '0':
            raise
        print(f'{osp.basename(sys.argv[0])}: error: {text}', file=sys.stderr, flush=True)
        sys.exit(_STATUS)


def user_message(error: Exception) -> Optional[str]:
    """What to tell a user of an error, without its stack trace.

    Args:
        error (Exception): One that was caught.

    Returns:
        str | None: The message of a :class:`UserError`. Of any error that arose
        while a part of the config was built, what it is and which part that
        was. None for all others, which are errors in the program.
    """
    if isinstance(error, UserError):
        # In the main process, one of a DataLoader's worker has a stack trace in its text.
        return str(error).rpartition(f'{UserError.__name__}: ')[2].rstrip()
    variables, trace = None, error.__traceback__
    while trace is not None:  # to the innermost part, in parts of parts
        if trace.tb_frame.f_code is build_from_cfg.__code__:
            variables = trace.tb_frame.f_locals
        trace = trace.tb_next
    return None if variables is None else _of_a_part(error, **variables)


def _of_a_part(error: Exception,
               cfg: dict,
               registry: Registry,
               obj_type: object = None,
               obj_cls: Optional[type] = None,
               args: Optional[dict] = None,
               **_) -> str:
    """What to tell of an error in mmengine's ``build_from_cfg``, from its variables."""
    if not isinstance(cfg, dict):
        return f'A part of the config must be a dict with a type, but is {cfg!r}.'
    if obj_type is None:
        return f'A part of the config has no type: {dict(cfg)}.'
    if obj_cls is None and isinstance(obj_type, str):
        return (f'{obj_type} is not in the {registry.scope}::{registry.name} registry.'
                f'{_hint([obj_type], _types(registry))} Check its spelling, and that '
                'custom_imports of the config has the module that registers it.')
    name = getattr(obj_cls, '__name__', obj_type)
    text = f'{name} cannot be built: {type(error).__name__}: {error}'.rstrip('.') + '.'
    if isinstance(error, TypeError) and obj_cls is not None:
        text += _hint(args, _arguments(obj_cls))
    return f'{text} With {SHOW_TRACEBACK}=1 in the environment its stack trace is shown.'


def _hint(names: Iterable[str], known: Set[str]) -> str:
    """Names that are meant, perhaps, by some that are not known."""
    for name in names:
        near = difflib.get_close_matches(name, known, n=1)
        if name not in known and near:
            return f' Did you mean {near[0]!r} instead of {name!r}?'
    return ''


def _types(registry: Registry) -> Set[str]:
    """Names in a registry and in those that it inherits from."""
    inherited = set() if registry.parent is None else _types(registry.parent)
    return {*registry.module_dict, *inherited}


def _arguments(built: object) -> Set[str]:
    """Names of a function's or a class's arguments, inherited ones too."""
    functions = [kind.__init__ for kind in built.__mro__] if inspect.isclass(built) else [built]
    return {name for function in functions for name in inspect.signature(function).parameters}
