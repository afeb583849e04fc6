# Copyright (c) the autoprog_mm authors. All rights reserved.
from .growing import GroupGrowth, Growth, grow
from .operators import (
    GrowthOperator,
    IdentityInit,
    Interpolation,
    Keep,
    MoGrow,
    RandomInit,
    Stacking,
)
from .schedule import Stage, build_schedule, round_to
from .scoring import (
    choose,
    choose_at_equal_compute,
    evaluation_steps,
    stage_candidates,
    stage_choices,
)
from .search import OneShotSearch
from .slots import growth_sources, slot_order
from .subnet import Subnet

__all__ = [
    'GroupGrowth', 'Growth', 'GrowthOperator', 'IdentityInit', 'Interpolation', 'Keep', 'MoGrow',
    'OneShotSearch', 'RandomInit', 'Stacking', 'Stage', 'Subnet', 'build_schedule',
    'choose', 'choose_at_equal_compute', 'evaluation_steps', 'grow', 'growth_sources', 'round_to',
    'slot_order', 'stage_candidates', 'stage_choices'
]
