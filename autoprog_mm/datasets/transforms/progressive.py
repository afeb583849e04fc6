# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Training transforms whose size and strength follow the stage."""
import math
import multiprocessing
from multiprocessing.context import assert_spawning
from typing import Sequence, Tuple

import numpy as np
from mmpretrain.datasets.transforms import RandAugment, RandomErasing, RandomResizedCrop
from mmpretrain.registry import TRANSFORMS

from ...utils.checks import check_int, check_number
from ...utils.errors import UserError
from .tables import by_table
from .token_label import flip_box


class _SharedNumber:
    """A number that worker processes follow while they live.

    It lies in shared memory, which goes to workers by fork and by spawn. A
    deep copy shares the number, too; plain pickling, which would cut the link
    silently, raises a RuntimeError.
    """

    def __init__(self, value: float) -> None:
        self._value = multiprocessing.RawValue('d', value)

    def get(self) -> float:
        return self._value.value

    def set(self, value: float) -> None:
        self._value.value = value

    def __getstate__(self) -> dict:
        assert_spawning(self)
        return self.__dict__

    def __copy__(self) -> '_SharedNumber':
        return self

    def __deepcopy__(self, memo) -> '_SharedNumber':
        return self


@TRANSFORMS.register_module()
class ProgressiveRandomResizedCrop(RandomResizedCrop):
    """``RandomResizedCrop`` straight to the size of the stage.

    **Added Keys:**

    - crop_box: Top, bottom, left and right of the crop, as fractions of the
      image before any flip.

    Args:
        *args: As ``RandomResizedCrop``.
        **kwargs: As ``RandomResizedCrop``. ``scale`` is the size of the full
            network, in pixels, and must be square.

    Attributes:
        resolution (int): Height and width to crop to. Setting it takes effect
            in worker processes that run already.
        full_resolution (int): ``scale``.
    """

    def __init__(self, *args, **kwargs) -> None:
        self._resolution = _SharedNumber(0)
        super().__init__(*args, **kwargs)
        self.full_resolution = self.resolution

    @property
    def resolution(self) -> int:
        return int(self._resolution.get())

    @resolution.setter
    def resolution(self, value: int) -> None:
        check_int('resolution of ProgressiveRandomResizedCrop', value)
        self._resolution.set(value)

    @property
    def scale(self) -> Tuple[int, int]:
        """tuple[int]: The size that the parent resizes to; it sets it once."""
        return self.resolution, self.resolution

    @scale.setter
    def scale(self, size: Sequence[int]) -> None:
        height, width = size
        if height != width:
            raise UserError(
                f'scale of ProgressiveRandomResizedCrop must be square, but got {size}.')
        self.resolution = height

    def rand_crop_params(self, img: np.ndarray) -> Tuple[int, int, int, int]:
        """Draw a crop, and remember it.

        Args:
            img (ndarray): Of shape (H, W, C).

        Returns:
            tuple[int]: Top, left, height and width of the crop.
        """
        self._params = super().rand_crop_params(img)
        return self._params

    def transform(self, results: dict) -> dict:
        """Crop, and note where.

        Args:
            results (dict): With ``img``, an array of shape (H, W, C).

        Returns:
            dict: ``results``, with ``img`` cropped and resized.
        """
        height, width = results['img'].shape[:2]
        results = super().transform(results)
        top, left, rows, columns = self._params
        box = top / height, (top + rows) / height, left / width, (left + columns) / width
        results['crop_box'] = flip_box(
            box, results['flip_direction'] if results.get('flip') else None)
        return results


@TRANSFORMS.register_module()
class ProgressiveRandAugment(RandAugment):
    """``RandAugment`` whose magnitude follows the stage.

    Args:
        *args: As ``RandAugment``.
        **kwargs: As ``RandAugment``. ``magnitude_level`` is the magnitude of
            the full network.

    Attributes:
        magnitude_level (int | float): Magnitude of all its transforms. Setting
            it takes effect in worker processes that run already.
    """

    def __init__(self, *args, **kwargs) -> None:
        self._magnitude = _SharedNumber(0)
        self.policies, self.transforms = [], []
        super().__init__(*args, **kwargs)
        self.transforms = [by_table(transform) for transform in self.transforms]

    @property
    def magnitude_level(self) -> float:
        return self._magnitude.get()

    @magnitude_level.setter
    def magnitude_level(self, value: float) -> None:
        check_number(
            'magnitude_level of ProgressiveRandAugment', value, 0, math.inf, below=True)
        self._magnitude.set(value)
        self._pass_on()

    def _pass_on(self) -> None:
        # The parent copies its level into each transform that has a magnitude.
        level = self.magnitude_level
        for policy, transform in zip(self.policies, self.transforms):
            if 'magnitude_range' in policy:
                transform.magnitude_level = level

    def transform(self, results: dict) -> dict:
        """Apply randomly chosen transforms at the magnitude of the stage.

        Args:
            results (dict): With ``img``, an array of shape (H, W, C).

        Returns:
            dict: ``results``, with ``img`` augmented.
        """
        # In a worker, the level may have been set by the main process.
        self._pass_on()
        return super().transform(results)


@TRANSFORMS.register_module()
class ProgressiveRandomErasing(RandomErasing):
    """``RandomErasing`` whose probability follows the stage.

    Args:
        *args: As ``RandomErasing``.
        **kwargs: As ``RandomErasing``. ``erase_prob`` is the probability of
            the full network.

    Attributes:
        erase_prob (float): Probability of erasing. Setting it takes effect in
            worker processes that run already.
    """

    def __init__(self, *args, **kwargs) -> None:
        self._erase_prob = _SharedNumber(0)
        super().__init__(*args, **kwargs)

    @property
    def erase_prob(self) -> float:
        return self._erase_prob.get()

    @erase_prob.setter
    def erase_prob(self, value: float) -> None:
        check_number('erase_prob of ProgressiveRandomErasing', value, 0, 1)
        self._erase_prob.set(value)
