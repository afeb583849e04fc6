# Copyright (c) the autoprog_mm authors. All rights reserved.
"""A user's mistake ends a tool with a sentence, an error in the program with a stack trace."""
import dis
import os
import re
import sys
from contextlib import contextmanager
from types import TracebackType
from typing import Iterator, List, Optional

from ..utils.errors import UserError

SHOW_TRACEBACK = 'AUTOPROG_TRACEBACK'
_STATUS = 2  # as of argparse
# What these modules raise by a raise statement is about what a user has set.
_REFUSALS = {
    '__main__': (ValueError, ),
    'autoprog_mm': (ValueError, ),
    'mmengine.config': (ValueError, TypeError, KeyError),
    'mmengine.registry': (KeyError, TypeError),
    'mmengine.runner': (ValueError, FileNotFoundError),
}
_BUILD = 'build_from_cfg'
_WRONG_ARGUMENTS = re.compile(
    r'__init__\(\) (got an unexpected keyword argument|missing \d+ required)')


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Context in which a user's mistake ends the process with status 2.

    Its sentence is printed to stderr, without a stack trace. Other errors pass,
    and with the environment variable ``AUTOPROG_TRACEBACK=1`` all do.
    """
    try:
        yield
    except Exception as error:
        if os.environ.get(SHOW_TRACEBACK, '0') != '0' or not is_mistake(error):
            raise
        # str() of a KeyError is its repr.
        text = error.args[0] if isinstance(error, KeyError) else error
        print(f'{type(error).__name__}: {text}', file=sys.stderr, flush=True)
        sys.exit(_STATUS)


def is_mistake(error: Exception) -> bool:
    """Whether an error says that what a user has set can't work.

    Either one of our modules or of mmengine's that read a config has raised it
    on purpose, or a part that a config names refuses the arguments that the
    config gives it.

    Args:
        error (Exception): One that was caught.
    """
    if isinstance(error, UserError):
        return True
    trace = _frames(error.__traceback__)
    if not trace:
        return False
    innermost = trace[-1]
    raised = _is_raise(innermost)
    module = innermost.tb_frame.f_globals.get('__name__', '')
    if raised and innermost.tb_frame.f_code.co_name != '__missing__':  # of any key of a dict
        for name, kinds in _REFUSALS.items():
            if (module == name or module.startswith(f'{name}.')) and isinstance(error, kinds):
                return True
    names = [frame.tb_frame.f_code.co_name for frame in trace]
    if _BUILD not in names:
        return False
    below = names[len(names) - names[::-1].index(_BUILD):]
    if any(name != '__init__' for name in below):
        return False
    if isinstance(error, TypeError):
        return not raised and _WRONG_ARGUMENTS.search(str(error)) is not None
    return raised and isinstance(error, (ValueError, AssertionError)) and bool(str(error))


def _frames(trace: Optional[TracebackType]) -> List[TracebackType]:
    frames = []
    while trace is not None:
        frames.append(trace)
        trace = trace.tb_next
    return frames


def _is_raise(trace: TracebackType) -> bool:
    """Whether a frame has raised the error by itself: a raise or an assert statement."""
    code = trace.tb_frame.f_code.co_code
    return dis.opname[code[trace.tb_lasti]] == 'RAISE_VARARGS'
