# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Randomness is derived, never stored.

Every random decision of a run is a function of the run's seed and of where it
is taken: an epoch, a step, a sample, a rank. So it does not depend on the
number of workers, and a resumed run needs no random state to go on as if it
had never stopped.
"""
import hashlib
import random
from contextlib import contextmanager
from typing import Iterator

import numpy as np
import torch


def derive_seed(*keys) -> int:
    """A seed that is a function of ``keys`` alone, on every machine.

    Args:
        *keys (int | str): Where the randomness is needed, the run's seed
            first, such as ``derive_seed(seed, 'step', 120, rank)``.

    Returns:
        int: A number of 63 bits.
    """
    digest = hashlib.blake2b(repr(keys).encode(), digest_size=8).digest()
    return int.from_bytes(digest, 'little') >> 1


class Randomness:
    """The table of a run's seeds, by what they are for.

    Args:
        seed (int): The run's seed.
        rank (int): This process's rank. Defaults to 0.
    """

    def __init__(self, seed: int, rank: int = 0) -> None:
        self.seed = seed
        self.rank = rank

    def step(self, step: int) -> int:
        """Mixing, drop path and dropout of a training step; each rank has its own."""
        return derive_seed(self.seed, 'step', step, self.rank)

    def subnet(self, step: int) -> int:
        """The candidate that a search trains in a step; the same on all ranks."""
        return derive_seed(self.seed, 'subnet', step)

    def growth(self, stage: int) -> int:
        """Fresh weights of a growth; the same on all ranks."""
        return derive_seed(self.seed, 'growth', stage)

    def scoring(self, stage: int) -> int:
        """The training images that a stage is scored on; the same on all ranks."""
        return derive_seed(self.seed, 'scoring', stage)

    def sample(self, place: int, *draw) -> int:
        """Transforms of a sample, by its place in what this rank draws.

        Args:
            place (int): Place of the sample, from 0.
            *draw (int | str): What is drawn, such as ``'epoch', 3``.
        """
        return derive_seed(self.seed, *draw, self.rank, place)

    @staticmethod
    def replacement(sample_seed: int, attempt: int) -> int:
        """The sample in place of one that cannot be read."""
        return derive_seed(sample_seed, 'replacement', attempt)


def seed_sample(seed: int) -> None:
    """Seed what transforms draw from: Python, NumPy, and torch on the CPU.

    CUDA is left alone, since this runs in worker processes.

    Args:
        seed (int): From :func:`derive_seed`.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)


def seed_step(seed: int) -> None:
    """Seed what a training step draws from, on all devices.

    Args:
        seed (int): From :func:`derive_seed`.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Context after which all generators go on as if nothing had been drawn in it."""
    states = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
