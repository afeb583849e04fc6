# Copyright (c) the autoprog_mm authors. All rights reserved.
from .progressive import (
                          ProgressiveRandAugment,
                          ProgressiveRandomErasing,
                          ProgressiveRandomResizedCrop,
)
from .token_label import LoadTokenLabel

__all__ = [
    'LoadTokenLabel', 'ProgressiveRandAugment', 'ProgressiveRandomErasing',
    'ProgressiveRandomResizedCrop'
]
