# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Stand-ins for data that aren't on the machine where a run is planned."""
import copy
from typing import List, Optional, Sequence

from mmengine.config import Config
from mmengine.dataset import Compose
from mmpretrain.datasets import ImageNet
from mmpretrain.registry import DATASETS, TRANSFORMS

from ..launch import MissingDataError, check_datasets
from ..launch.dataloaders import leaf_datasets
from ..utils.errors import UserError

_IMAGENET = dict(train_dataloader=1281167, val_dataloader=50000)


@DATASETS.register_module()
class PlannedDataset:
    """A dataset that has a length and transforms, but no samples to give.

    Args:
        samples (int): How many it would have.
        pipeline (Sequence[dict]): Its transforms, which are built.
    """

    metainfo: dict = {}
    is_planned = True  # for those who would take samples

    def __init__(self, samples: int, pipeline=()) -> None:
        self.samples = samples
        self.pipeline = Compose([TRANSFORMS.build(transform) for transform in pipeline])

    def full_init(self) -> None:
        """Nothing is left to do; wrappers ask for it."""

    def get_cat_ids(self, index: int) -> List[int]:
        """The class of a sample, which is not known: one for all."""
        return [0]

    def get_subset(self, indices: Sequence[int]) -> 'PlannedDataset':
        """A part of it, for ``KFoldDataset``."""
        part = copy.copy(self)
        part.samples = len(indices)
        return part

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> dict:
        raise IndexError('A dataset that is only planned has no samples.')


def replace_missing_data(cfg: Config, name: str, samples: Optional[int]) -> Optional[str]:
    """Put a :class:`PlannedDataset` where a dataset's files are missing.

    Args:
        cfg (Config): It is changed.
        name (str): ``'train_dataloader'`` or ``'val_dataloader'``.
        samples (int | None): Training images; None for ImageNet's number.

    Returns:
        str | None: What was assumed; None if the data are here.

    Raises:
        UserError: If the number of training images is not known.
    """
    try:
        check_datasets(cfg, (name, ))
        return None
    except MissingDataError as error:
        owner = _innermost(cfg[name])
        leaf = next(leaf for _, leaf in leaf_datasets('', owner['dataset']))
        kind = DATASETS.get(leaf['type']) if isinstance(leaf['type'], str) else leaf['type']
        training = name == 'train_dataloader'
        number = samples if training else None
        if number is None and kind is ImageNet:
            number = _IMAGENET[name]
        if number is None and training:
            raise UserError(f'{error} To plan without the data, say how many images there are: '
                            '--samples N.') from None
        number = number or 1  # only the time of validations depends on it
    owner['dataset'] = dict(
        type='PlannedDataset', samples=number, pipeline=leaf.get('pipeline', ()))
    balanced = ', as many of each class' if 'ClassBalanced' in str(owner.get('type')) else ''
    return f'{name}: the data are not here; {number} images assumed{balanced}.'


def _innermost(loader: dict) -> dict:
    """What has the dataset of all images: the loader, or a wrapper that repeats or divides it."""
    owner = loader
    while isinstance(owner['dataset'].get('dataset'), dict):
        owner = owner['dataset']
    return owner
