# Copyright (c) the autoprog_mm authors. All rights reserved.
from .progressive import (
                          ProgressiveRandAugment,
                          ProgressiveRandomErasing,
                          ProgressiveRandomResizedCrop,
)

__all__ = ['ProgressiveRandAugment', 'ProgressiveRandomErasing', 'ProgressiveRandomResizedCrop']
