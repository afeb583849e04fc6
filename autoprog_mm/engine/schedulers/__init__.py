# Copyright (c) the autoprog_mm authors. All rights reserved.
from .cycle_cosine_lr import CycleCosineLR

__all__ = ['CycleCosineLR']
