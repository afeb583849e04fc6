# Copyright (c) the autoprog_mm authors. All rights reserved.
"""The progressive transforms that feed a dataset, through any wrappers."""
import logging
from typing import Any, Dict, Iterator, List, Mapping

from mmengine.logging import print_log
from mmpretrain.datasets.transforms import RandAugment, RandomErasing
from torch.utils.data import Dataset

from ..utils.errors import UserError
from .transforms import (
    ProgressiveRandAugment,
    ProgressiveRandomErasing,
    ProgressiveRandomResizedCrop,
)

# Scheduled regulariser: the transform that follows it, the attribute of it
# that is set, and the transform that would not follow.
_FOLLOWERS = {
    'rand_augment': (ProgressiveRandAugment, 'magnitude_level', RandAugment),
    'random_erasing': (ProgressiveRandomErasing, 'erase_prob', RandomErasing),
}


class ProgressivePipelines:
    """Sets resolution and strength of all training pipelines at once.

    Args:
        dataset (Dataset): The training dataset.
        full_resolution (int): Input size of the full network, in pixels.

    Attributes:
        full_strength (dict): Strength of the full network, of each
            regulariser that the pipelines have.

    Raises:
        ValueError: If a pipeline has no progressive crop, or two, or one of
            another size, or if pipelines differ in strength.
    """

    def __init__(self, dataset: Dataset, full_resolution: int) -> None:
        self._pipelines = find_pipelines(dataset)
        self._crops = []
        for pipeline in self._pipelines:
            crops = [t for t in pipeline if isinstance(t, ProgressiveRandomResizedCrop)]
            if len(crops) != 1:
                raise UserError(
                    f'Each training pipeline needs exactly one ProgressiveRandomResizedCrop, but '
                    f'train_dataloader.dataset.pipeline has {len(crops)} among '
                    f'{[type(t).__name__ for t in pipeline]}. Use it in place of '
                    'RandomResizedCrop.')
            if crops[0].full_resolution != full_resolution:
                raise UserError(
                    f'scale of ProgressiveRandomResizedCrop ({crops[0].full_resolution}) must be '
                    f'img_size of the backbone ({full_resolution}).')
            self._crops += crops
        self.full_strength: Dict[str, float] = {}
        self._followers = {}
        for name, (kind, attribute, _) in _FOLLOWERS.items():
            transforms = [t for pipeline in self._pipelines for t in pipeline
                          if isinstance(t, kind)]
            values = sorted({getattr(transform, attribute) for transform in transforms})
            if len(values) > 1:
                raise UserError(
                    f'All training pipelines must have the same {attribute}, but got {values}.')
            if values:
                self.full_strength[name] = values[0]
                self._followers[name] = transforms

    def set_resolution(self, resolution: int) -> None:
        """Crop to ``resolution`` from now on.

        Args:
            resolution (int): Height and width, in pixels.
        """
        for crop in self._crops:
            crop.resolution = resolution

    def set_strength(self, strength: Mapping[str, float]) -> None:
        """Augment with ``strength`` from now on.

        Args:
            strength (dict): A value for each key of :attr:`full_strength`.
        """
        for name, transforms in self._followers.items():
            for transform in transforms:
                setattr(transform, _FOLLOWERS[name][1], strength[name])

    def warn_of_stock_transforms(self, regularization: Mapping[str, float]) -> None:
        """Warn of transforms that won't follow what is to be scheduled.

        Args:
            regularization (dict): The first stage's share of each regulariser.
        """
        for name, (kind, _, stock) in _FOLLOWERS.items():
            if regularization.get(name, 1) != 1 and \
                    any(type(t) is stock for pipeline in self._pipelines for t in pipeline):
                print_log(
                    f'{stock.__name__} in the training pipeline does not follow the stages; use '
                    f'{kind.__name__}, or regularization.{name}=1.',
                    logger='current',
                    level=logging.WARNING)


def find_pipelines(dataset: Dataset) -> List[List[Any]]:
    """The transforms of each pipeline that feeds a dataset.

    Args:
        dataset (Dataset): See :func:`leaves_of`.

    Returns:
        list[list]: For each dataset inside, all its transforms, those inside
        of other transforms too.
    """
    return [list(_flatten(getattr(part, 'pipeline', None))) for part in leaves_of(dataset)]


def leaves_of(dataset: Dataset) -> List[Dataset]:
    """The datasets inside of wrappers.

    Args:
        dataset (Dataset): A dataset, or wrappers such as mmengine's
            ``ConcatDataset`` and ``RepeatDataset`` around some.
    """
    inner = getattr(dataset, 'datasets', None)
    if isinstance(inner, (list, tuple)):
        return [leaf for part in inner for leaf in leaves_of(part)]
    # mmengine's wrappers are no torch Datasets, but they can be indexed.
    if hasattr(getattr(dataset, 'dataset', None), '__getitem__'):
        return leaves_of(dataset.dataset)
    return [dataset]


def _flatten(transform: Any) -> Iterator[Any]:
    """A transform and all inside of it, such as those of a ``RandomApply``."""
    if transform is None:
        return
    if isinstance(transform, (list, tuple)):
        for part in transform:
            yield from _flatten(part)
        return
    yield transform
    yield from _flatten(getattr(transform, 'transforms', None))
