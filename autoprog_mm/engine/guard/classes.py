# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Whether labels of a test mean what they meant in training."""
from logging import Logger
from typing import Any, Mapping, Sequence

from ...utils.errors import UserError

_LISTED = 5


def check_classes(checkpoint: Mapping[str, Any], dataset: Any, logger: Logger) -> None:
    """Compare the classes of a dataset with those that a checkpoint was trained on.

    Args:
        checkpoint (dict): It; one that doesn't say is not looked at.
        dataset (Dataset): To test or to validate with.
        logger (Logger): Gets a warning if the same number has other names, for
            datasets may call a class differently.

    Raises:
        UserError: If there are more or fewer.
    """
    meta = checkpoint.get('meta') or {}
    known = (meta.get('dataset_meta') or {}).get('classes')
    found = getattr(dataset, 'metainfo', {}).get('classes')
    if not isinstance(known, Sequence) or not isinstance(found, Sequence):
        return
    if list(known) == list(found):
        return
    text = (f'The checkpoint was trained on {_text(known)}, but the dataset to test with has '
            f'{_text(found)}.')
    if len(known) != len(found):
        raise UserError(f'{text} Its labels would not mean the same. Use a folder for each class.')
    logger.warning(f'{text} Class by class, they must mean the same.')


def _text(classes: Sequence[str]) -> str:
    more = ', ...' if len(classes) > _LISTED else ''
    return f'{len(classes)} classes ({", ".join(map(str, classes[:_LISTED]))}{more})'
