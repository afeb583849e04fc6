# Copyright (c) the autoprog_mm authors. All rights reserved.
from .errors import UserError
from .files import write_atomically
from .images import resize_batch
from .randomness import Randomness, derive_seed, seed_sample, seed_step, undisturbed

__all__ = [
    'Randomness', 'UserError', 'derive_seed', 'resize_batch', 'seed_sample', 'seed_step',
    'undisturbed', 'write_atomically'
]
