# Copyright (c) the autoprog_mm authors. All rights reserved.
"""The one registry of our own; all else registers in :mod:`mmpretrain.registry`."""
import mmpretrain.registry
from mmengine.registry import Registry

# Ways to fill a slot that wakes up, see :mod:`autoprog_mm.growth.operators`.
GROWTH_OPERATORS = Registry(
    'growth operator',
    scope='autoprog_mm',
    locations=['autoprog_mm.growth.operators'],
)

# What a config takes over from ``autoprog_mm::...`` is built in a scope of this
# name. It is empty, so that all is found in mmpretrain's.
for _registry in list(vars(mmpretrain.registry).values()):
    if isinstance(_registry, Registry) and _registry.scope == 'mmpretrain':
        Registry(
            _registry.name, parent=_registry, scope='autoprog_mm', locations=['autoprog_mm'])
