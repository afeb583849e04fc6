# Copyright (c) the autoprog_mm authors. All rights reserved.
from typing import Any, Collection


def plain_config(value: Any, left_out: Collection[str] = ()) -> Any:
    """A config, or a part of one, in the types of JSON.

    Args:
        value (Any): The config. A class or function becomes its name.
        left_out (Collection[str]): Keys to leave out, wherever they are.
            Defaults to none.
    """
    if isinstance(value, dict):
        return {str(key): plain_config(item, left_out) for key, item in value.items()
                if key not in left_out}
    if isinstance(value, (list, tuple)):
        return [plain_config(item, left_out) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    text = getattr(value, '__name__', str(value))
    return type(value).__name__ if ' at 0x' in text else text
