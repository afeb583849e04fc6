# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Images that can't be read."""
from logging import Logger
from typing import Dict, Optional

from mmengine.dist import all_gather_object

from ...datasets.unread import bad_images

_LISTED = 20  # images, in a message


class BadImages:
    """Names images that can't be read, each once, and counts them over all ranks.

    Args:
        limit (int): How many a run may have.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.errors: Dict[str, str] = {}  # by path, as all ranks know them
        self._new: Dict[str, str] = {}  # of this rank, not shared yet

    def __len__(self) -> int:
        return len(self.errors)

    def look_at(self, data_batch: dict, logger: Optional[Logger] = None) -> int:
        """Note those of a batch.

        Args:
            data_batch (dict): The collated batch.
            logger (Logger, optional): Gets a warning for each training image
                that was not known. Defaults to None, no warnings.

        Returns:
            int: How many were not known.
        """
        fresh = 0
        for path, error in bad_images(data_batch):
            if path not in self.errors and path not in self._new:
                self._new[path] = error
                fresh += 1
                if logger is not None:
                    logger.warning(f'The image {path!r} cannot be read ({error}); another sample '
                                   'takes its place.')
        return fresh

    def share(self) -> None:
        """Tell all ranks of the images that each has met; a collective call."""
        for images in all_gather_object(self._new):
            self.errors.update(images)
        self._new = {}

    def check(self, hint: str) -> None:
        """Stop a run of too many.

        Args:
            hint (str): A sentence for the message.

        Raises:
            RuntimeError: For more than ``limit``; lists them.
        """
        if len(self.errors) > self.limit:
            raise RuntimeError(
                f'{len(self.errors)} images could not be read, more than max_bad_images '
                f'({self.limit}) of RunGuardHook. {hint} They are:\n{self.listed()}')

    def listed(self) -> str:
        """str: The first of them with their errors, one a line."""
        images = self.state_dict()
        lines = [f'  {path!r}  ({error})' for path, error in list(images.items())[:_LISTED]]
        more = len(images) - len(lines)
        return '\n'.join(lines) + (f'\n  and {more} more' if more else '')

    def state_dict(self) -> Dict[str, str]:
        """dict[str, str]: Errors by path."""
        return {**self.errors, **self._new}

    def load_state_dict(self, state: Dict[str, str]) -> None:
        """Go on from what a checkpoint knows."""
        self.errors = dict(state)
