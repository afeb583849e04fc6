# Copyright (c) the autoprog_mm authors. All rights reserved.
from .decode_crop import ProgressiveDecodeCrop
from .progressive import (
                          ProgressiveRandAugment,
                          ProgressiveRandomErasing,
                          ProgressiveRandomResizedCrop,
)
from .token_label import LoadTokenLabel

__all__ = [
    'LoadTokenLabel', 'ProgressiveDecodeCrop', 'ProgressiveRandAugment',
    'ProgressiveRandomErasing', 'ProgressiveRandomResizedCrop'
]
