# Copyright (c) the autoprog_mm authors. All rights reserved.


class UserError(ValueError):
    """What a user has set, or given, cannot work.

    Its message names the argument, the value and the way out, for tools print
    it without a stack trace.
    """


def first_cause(error: BaseException) -> BaseException:
    """The error that others were raised for, such as that of an import inside of an import.

    Args:
        error (BaseException): The last one.
    """
    cause = error.__cause__ or error.__context__
    return error if cause is None else first_cause(cause)


def one_line(error: BaseException) -> str:
    """Kind and message of an error, in one line without a full stop.

    It can be written anywhere, whatever file names are in it.

    Args:
        error (BaseException): The error.
    """
    text = f'{type(error).__name__}: {" ".join(str(error).split())}'.rstrip('.')
    return text.encode('utf-8', 'backslashreplace').decode()
