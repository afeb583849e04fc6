# Copyright (c) the autoprog_mm authors. All rights reserved.
from .class_folders import ClassFolders
from .mnist5k import MNIST5k
from .seeded import SeededDataset, SeededSampler, seeded_dataloader
from .transforms import (
                         LoadTokenLabel,
                         ProgressiveDecodeCrop,
                         ProgressiveRandAugment,
                         ProgressiveRandomErasing,
                         ProgressiveRandomResizedCrop,
)

__all__ = [
    'ClassFolders', 'LoadTokenLabel', 'MNIST5k', 'ProgressiveDecodeCrop',
    'ProgressiveRandAugment', 'ProgressiveRandomErasing', 'ProgressiveRandomResizedCrop',
    'SeededDataset', 'SeededSampler', 'seeded_dataloader'
]
