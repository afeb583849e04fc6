# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Classifiers that say what is in each part of an image, for label maps."""
from .build import build_teacher
from .cells import ClassifierCells, TimmCells
from .dense import DenseTeacher, ImageReader
from .weights import load_weights, weights_fingerprint

__all__ = [
    'ClassifierCells', 'DenseTeacher', 'ImageReader', 'TimmCells', 'build_teacher', 'load_weights',
    'weights_fingerprint'
]
