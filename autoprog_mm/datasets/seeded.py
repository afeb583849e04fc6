# Copyright (c) the autoprog_mm authors. All rights reserved.
"""A dataloader whose samples are functions of seed, epoch, rank and place."""
import copy
from contextlib import contextmanager
from itertools import islice
from typing import Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from ..utils import Randomness, seed_sample
from ..utils.errors import UserError, one_line
from .unread import BAD_IMAGES, unread_image


class SeededIndex(NamedTuple):
    """What the sampler hands to the dataset.

    Args:
        index (int): Index of the sample in the dataset.
        seed (int): What its random transforms are seeded with.
    """

    index: int
    seed: int


_MAX_REPLACEMENTS = 16


class SeededDataset(Dataset):
    """Seeds each sample's transforms with what travels along with its index.

    An image that ``LoadImageFromFile`` or ``ProgressiveDecodeCrop`` can't read
    is replaced by another sample, drawn from the same seed, whose
    ``data_samples`` tells of it.

    Args:
        dataset (Dataset): Any map-style dataset. All its attributes can be
            read from here.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, item: SeededIndex):
        bad: List[List[str]] = []
        index, seed = item
        while True:
            seed_sample(seed)
            try:
                sample = self.dataset[index]
                break
            except Exception as error:
                path = unread_image(error)
                if path is None or len(bad) == _MAX_REPLACEMENTS:
                    raise
                bad.append([path, one_line(error)])
            seed = Randomness.replacement(item.seed, len(bad))
            index = seed % len(self.dataset)
        if bad:
            sample['data_samples'].set_metainfo({BAD_IMAGES: bad})
        return sample

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
        self.random = Randomness(seed, rank)
        self.epoch = 0
        self.skipped = 0  # samples at the beginning of the epoch that are not drawn
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
        begin = 0 if self._draw else self.skipped
        for place, index in islice(enumerate(indices), begin, None):
            yield SeededIndex(index, self.random.sample(place, *keys))

    def __len__(self) -> int:
        return len(self.sampler if self._draw is None else self._draw[0])


class SeededBatchSampler(Sampler):
    """A batch sampler of another kind than torch's, around a seeded sampler.

    Args:
        batch_sampler (Sampler): Yields batches of what its attribute
            ``sampler``, a :class:`SeededSampler`, yields.
    """

    def __init__(self, batch_sampler: Sampler) -> None:
        self.batch_sampler = batch_sampler
        self.skipped = 0  # batches

    def __iter__(self) -> Iterator[List[SeededIndex]]:
        yield from islice(iter(self.batch_sampler), self.skipped, None)

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __getattr__(self, name: str):
        if name == 'batch_sampler' or name.startswith('__'):
            raise AttributeError(name)
        return getattr(self.batch_sampler, name)


@contextmanager
def skipping(loader: DataLoader, num_batches: int) -> Iterator[None]:
    """Context in which an epoch begins after its first batches, without loading them.

    Args:
        loader (DataLoader): From :func:`seeded_dataloader`.
        num_batches (int): How many batches to pass over.

    Raises:
        ValueError: If there are batches to pass over and the loader is
            another one, whose samples depend on what was loaded before.
    """
    if num_batches == 0:
        yield
        return
    batches = loader.batch_sampler
    if isinstance(batches, SeededBatchSampler):
        skipper, number = batches, num_batches
    elif isinstance(getattr(batches, 'sampler', None), SeededSampler):
        skipper, number = batches.sampler, num_batches * batches.batch_size
    else:
        raise UserError(
            'Going on in the middle of an epoch needs AutoProgHook in custom_hooks, which makes '
            'each sample a function of its place.')
    skipper.skipped = number
    try:
        yield
    finally:
        skipper.skipped = 0


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
    options = _options(
        loader, generator=loader.generator, persistent_workers=loader.persistent_workers)
    if not hasattr(loader.batch_sampler, 'sampler'):
        raise UserError(
            'train_dataloader needs a batch_size, or a batch_sampler with an attribute `sampler`, '
            f'but got {type(loader.batch_sampler).__name__}.')
    sampler = SeededSampler(loader.batch_sampler.sampler, seed, rank)
    if type(loader.batch_sampler) is BatchSampler:
        options.update(
            sampler=sampler, batch_size=loader.batch_size, drop_last=loader.drop_last)
    else:
        batch_sampler = copy.copy(loader.batch_sampler)
        batch_sampler.sampler = sampler
        options.update(batch_sampler=SeededBatchSampler(batch_sampler))
    return DataLoader(SeededDataset(loader.dataset), **options), sampler


def spread_dataloader(loader: DataLoader, images: int, batches: int) -> DataLoader:
    """A dataloader like another one, of a few batches from all over its dataset.

    Args:
        loader (DataLoader): From :func:`seeded_dataloader`; it isn't touched.
        images (int): Samples of a batch.
        batches (int): Batches of an epoch.
    """
    total = len(loader.dataset)
    return DataLoader(loader.dataset, **_options(
        loader,
        batch_sampler=[
            [SeededIndex((place * total // images + turn) % total, place)
             for place in range(images)] for turn in range(batches)],
        generator=torch.Generator(),
        persistent_workers=loader.num_workers > 0))


def _options(loader: DataLoader, **others) -> dict:
    """What a dataloader like another one is built with."""
    return dict(
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        prefetch_factor=loader.prefetch_factor,
        **others)


def batch_size_of(loader: DataLoader) -> int:
    """Images of a batch of one process.

    Args:
        loader (DataLoader): One with a batch size, of its own or of its batch
            sampler.
    """
    return loader.batch_size or loader.batch_sampler.batch_size
