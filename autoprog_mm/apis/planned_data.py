# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Stand-ins for data that aren't on the machine where a run is planned."""
from typing import Optional

from mmengine.config import Config
from mmengine.dataset import Compose
from mmpretrain.datasets import ImageNet
from mmpretrain.registry import DATASETS, TRANSFORMS

from ..launch.prepare import check_datasets
from ..utils.errors import UserError

_IMAGENET = dict(train_dataloader=1281167, val_dataloader=50000)


@DATASETS.register_module()
class PlannedDataset:
    """A dataset that has a length and transforms, but no samples to give.

    Args:
        samples (int): How many it would have.
        pipeline (Sequence[dict]): Its transforms, which are built.
    """

    def __init__(self, samples: int, pipeline=()) -> None:
        self.samples = samples
        self.pipeline = Compose([TRANSFORMS.build(transform) for transform in pipeline])

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
    except UserError as error:
        dataset = cfg[name].dataset
        kind = dataset['type']
        if isinstance(kind, str):
            kind = DATASETS.get(kind)
        training = name == 'train_dataloader'
        number = samples if training else None
        if number is None and kind is ImageNet:
            number = _IMAGENET[name]
        if number is None and training:
            raise UserError(f'{error} To plan without the data, say how many images there are: '
                            '--samples N.') from None
        number = number or 1  # only the time of validations depends on it
    cfg[name].dataset = dict(
        type='PlannedDataset', samples=number, pipeline=dataset.get('pipeline', ()))
    return f'{name}: the data are not here; {number} images assumed.'
