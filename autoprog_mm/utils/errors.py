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
