# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Batches of chosen samples, through a training dataloader's own workers."""
from typing import Iterator, Sequence

import torch
from mmengine.dist import get_dist_info
from torch.utils.data import DataLoader

from .seeded import SeededSampler, batch_size_of


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


def fixed_batches(loader: DataLoader, sampler: SeededSampler, stage: int,
                  num_batches: int) -> Iterator[dict]:
    """This rank's training batches that are a function of seed and stage.

    All ranks get as many, of the same sizes, since a model may synchronise in
    its forward pass.

    Args:
        loader (DataLoader): From :func:`seeded_dataloader`.
        sampler (SeededSampler): Its sampler.
        stage (int): The stage.
        num_batches (int): How many; at most those of an epoch.

    Yields:
        dict: A batch.
    """
    rank, world_size = get_dist_info()
    generator = torch.Generator().manual_seed(sampler.random.scoring(stage))
    order = torch.randperm(len(loader.dataset), generator=generator).tolist()
    share = max(1, len(order) // world_size)
    num_samples = min(batch_size_of(loader) * min(num_batches, len(loader)), share)
    indices = [order[(rank + place * world_size) % len(order)] for place in range(num_samples)]
    return draw_batches(loader, sampler, indices, 'scoring', stage)
