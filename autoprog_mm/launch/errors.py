# Copyright (c) the autoprog_mm authors. All rights reserved.
"""A user's mistake ends a tool with a sentence, an error in the program with a stack trace."""
import inspect
import io
import os
import os.path as osp
import re
import signal
import sys
from contextlib import contextmanager
from typing import Iterator, Optional, Set

from mmengine.registry import Registry, build_from_cfg, build_scheduler_from_cfg

from ..utils.errors import UserError
from ..utils.names import did_you_mean

SHOW_TRACEBACK = 'AUTOPROG_TRACEBACK'
_STATUS = 2  # as of argparse


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Context in which a user's mistake ends the process with status 2.

    Its sentence is printed to stderr, without a stack trace. Other errors pass,
    and with the environment variable ``AUTOPROG_TRACEBACK=1`` all do. Ctrl-C
    ends it with status 130. What standard output can't show, of file names say,
    is escaped.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # of a tool's import of libraries
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='backslashreplace')
    try:
        yield
    except KeyboardInterrupt:
        if os.environ.get(SHOW_TRACEBACK, '0') != '0':
            raise
        print(f'\n{osp.basename(sys.argv[0])}: stopped by Ctrl-C.', file=sys.stderr, flush=True)
        sys.exit(128 + signal.SIGINT)
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
        elif trace.tb_frame.f_code is build_scheduler_from_cfg.__code__:
            variables = {'obj_cls': trace.tb_frame.f_locals.get('scheduler_cls'),
                         'obj_type': trace.tb_frame.f_locals.get('scheduler_type'),
                         **trace.tb_frame.f_locals}
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
                f'{did_you_mean(obj_type, _types(registry))} Check its spelling, and that '
                'custom_imports of the config has the module that registers it.')
    name = getattr(obj_cls, '__name__', obj_type)
    unexpected = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if isinstance(error, TypeError) and unexpected and unexpected[1] in (args or {}):
        known = arguments_of(obj_cls) - {'self', 'args', 'kwargs'}
        return f'{name} has no option {unexpected[1]!r}.' + (
            did_you_mean(unexpected[1], known) or f' It may have {", ".join(sorted(known))}.')
    text = f'{name} cannot be built: {type(error).__name__}: {error}'.rstrip('.') + '.'
    return f'{text} With {SHOW_TRACEBACK}=1 in the environment its stack trace is shown.'


def _types(registry: Registry) -> Set[str]:
    """Names in a registry and in those that it inherits from."""
    inherited = set() if registry.parent is None else _types(registry.parent)
    return {*registry.module_dict, *inherited}


def arguments_of(built: object) -> Set[str]:
    """Names of a function's or a class's arguments, inherited ones too.

    Args:
        built (Callable): The function or class.
    """
    functions = [kind.__init__ for kind in built.__mro__] if inspect.isclass(built) else [built]
    return {name for function in functions for name in inspect.signature(function).parameters}
