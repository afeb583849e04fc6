# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Where a config has its datasets."""
from typing import Iterator, Tuple

DATALOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def leaf_datasets(key: str, dataset: dict) -> Iterator[Tuple[str, dict]]:
    """The datasets inside of wrappers, with their places in the config.

    Args:
        key (str): Place of ``dataset``.
        dataset (dict): Config of a dataset, or of a wrapper of some.

    Yields:
        tuple[str, dict]: Place and config of a dataset that wraps no other.
    """
    if isinstance(dataset.get('datasets'), (list, tuple)):
        for i, part in enumerate(dataset['datasets']):
            yield from leaf_datasets(f'{key}.datasets.{i}', part)
    elif isinstance(dataset.get('dataset'), dict):
        yield from leaf_datasets(f'{key}.dataset', dataset['dataset'])
    else:
        yield key, dataset
