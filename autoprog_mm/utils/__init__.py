# Copyright (c) the autoprog_mm authors. All rights reserved.
from .errors import UserError
from .files import write_atomically
from .images import resize_batch
from .randomness import derive_seed, seed_sample, seed_step

__all__ = [
    'UserError', 'derive_seed', 'resize_batch', 'seed_sample', 'seed_step', 'write_atomically'
]
