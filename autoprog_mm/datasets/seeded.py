# Copyright (c) the autoprog_mm authors. All rights reserved.
"""A dataloader whose samples are functions of seed, epoch, rank and place."""
import copy
from contextlib import contextmanager
from typing import Iterator, NamedTuple, Optional, Sequence, Tuple

from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from ..utils import derive_seed, seed_sample


class SeededIndex(NamedTuple):
    """What the sampler hands to the dataset.

    Args:
        index (int): Index of the sample in the dataset.
        seed (int): What its random transforms are seeded with.
    """

    index: int
    seed: int


class SeededDataset(Dataset):
    """Seeds each sample's transforms with what travels along with its index.

    Args:
        dataset (Dataset): Any map-style dataset. All its attributes can be
            read from here.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, item: SeededIndex):
        seed_sample(item.seed)
        return self.dataset[item.index]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str):
        # Not for what unpickling looks up before there is a dataset.
        if name == 'dataset' or name.startswith('__'):
            raise AttributeError(name)
        return getattr(self.dataset, name)


class SeededSampler(Sampler):
    """Sends a seed along with each index of another sampler.

    The seed is a function of the run's seed, the epoch, the rank and the
    place in the rank's epoch, so that the repeats of repeated augmentation
    differ, and the number of workers makes no difference.

    Args:
        sampler (Sampler): Where the indices come from.
        seed (int): The run's seed.
        rank (int): This process's rank.
    """

    def __init__(self, sampler: Sampler, seed: int, rank: int) -> None:
        self.sampler = sampler
        self.seed = seed
        self.rank = rank
        self.epoch = 0
        self._draw: Optional[Tuple[Sequence[int], tuple]] = None

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, of the other sampler too.

        Args:
            epoch (int): The epoch about to begin.
        """
        self.epoch = epoch
        if hasattr(self.sampler, 'set_epoch'):
            self.sampler.set_epoch(epoch)

    @contextmanager
    def drawing(self, indices: Sequence[int], *keys) -> Iterator[None]:
        """Context in which the sampler yields ``indices`` instead.

        Args:
            indices (Sequence[int]): Samples to draw, in order.
            *keys (int | str): What their randomness is a function of, besides
                the run's seed, the rank and the place.
        """
        self._draw = (indices, keys)
        try:
            yield
        finally:
            self._draw = None

    def __iter__(self) -> Iterator[SeededIndex]:
        indices, keys = self._draw or (self.sampler, ('epoch', self.epoch))
        for place, index in enumerate(indices):
            yield SeededIndex(index, derive_seed(self.seed, *keys, self.rank, place))

    def __len__(self) -> int:
        return len(self.sampler if self._draw is None else self._draw[0])


def seeded_dataloader(loader: DataLoader, seed: int, rank: int) -> Tuple[DataLoader, SeededSampler]:
    """A dataloader like ``loader`` that derives all randomness of its samples.

    Args:
        loader (DataLoader): A map-style dataloader that was not iterated yet.
        seed (int): The run's seed.
        rank (int): This process's rank.

    Returns:
        tuple[DataLoader, SeededSampler]: The new loader, and its sampler.

    Raises:
        ValueError: If ``loader`` has no batch sampler to send seeds through.
    """
    options = dict(
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers)
    if not hasattr(loader.batch_sampler, 'sampler'):
        raise ValueError(
            'train_dataloader needs a batch_size, or a batch_sampler with an attribute `sampler`, '
            f'but got {type(loader.batch_sampler).__name__}.')
    sampler = SeededSampler(loader.batch_sampler.sampler, seed, rank)
    if type(loader.batch_sampler) is BatchSampler:
        options.update(
            sampler=sampler, batch_size=loader.batch_size, drop_last=loader.drop_last)
    else:
        batch_sampler = copy.copy(loader.batch_sampler)
        batch_sampler.sampler = sampler
        options.update(batch_sampler=batch_sampler)
    return DataLoader(SeededDataset(loader.dataset), **options), sampler


def draw_batches(loader: DataLoader, sampler: SeededSampler, indices: Sequence[int],
                 *keys) -> Iterator[dict]:
    """Collated batches of the given samples, through the loader's own workers.

    Args:
        loader (DataLoader): From :func:`seeded_dataloader`.
        sampler (SeededSampler): Its sampler.
        indices (Sequence[int]): Samples to draw, in order.
        *keys (int | str): See :meth:`SeededSampler.drawing`.

    Yields:
        dict: A batch.
    """
    with sampler.drawing(indices, *keys):
        yield from loader
