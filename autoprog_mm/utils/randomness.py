# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Randomness is derived, never stored.

Every random decision of a run is a function of the run's seed and of where it
is taken: an epoch, a step, a sample, a rank. So it does not depend on the
number of workers, and a resumed run needs no random state to go on as if it
had never stopped.
"""
import hashlib
import random

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
