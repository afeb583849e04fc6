# Copyright (c) the autoprog_mm authors. All rights reserved.


class UserError(ValueError):
    """What a user has set, or given, cannot work.

    Its message names the argument, the value and the way out, for tools print
    it without a stack trace.
    """
