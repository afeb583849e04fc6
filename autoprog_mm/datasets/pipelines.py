# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Finding transforms inside datasets, through any wrappers."""
from typing import Any, Iterator, List

from torch.utils.data import Dataset


def find_pipelines(dataset: Dataset) -> List[List[Any]]:
    """The transforms of each pipeline that feeds a dataset.

    Args:
        dataset (Dataset): A dataset, or wrappers such as mmengine's
            ``ConcatDataset`` and ``RepeatDataset`` around some.

    Returns:
        list[list]: For each dataset inside, all its transforms, those inside
        of other transforms too.
    """
    inner = getattr(dataset, 'datasets', None)
    if isinstance(inner, (list, tuple)):
        return [pipeline for part in inner for pipeline in find_pipelines(part)]
    # mmengine's wrappers are no torch Datasets, but they can be indexed.
    if hasattr(getattr(dataset, 'dataset', None), '__getitem__'):
        return find_pipelines(dataset.dataset)
    return [list(_flatten(getattr(dataset, 'pipeline', None)))]


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
