# Copyright (c) the autoprog_mm authors. All rights reserved.
"""The one registry of our own; all else registers in :mod:`mmpretrain.registry`."""
from mmengine.registry import Registry

# Ways to fill a slot that wakes up, see :mod:`autoprog_mm.growth.operators`.
GROWTH_OPERATORS = Registry(
    'growth operator',
    scope='autoprog_mm',
    locations=['autoprog_mm.growth.operators'],
)
