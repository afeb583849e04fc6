# Copyright (c) the autoprog_mm authors. All rights reserved.
from .operators import GrowthOperator, IdentityInit, Interpolation, MoGrow, RandomInit, Stacking
from .schedule import Stage, build_schedule, round_to
from .scoring import SearchBounds, choose, evaluation_steps, stage_candidates, stage_choices
from .search import OneShotSearch
from .slots import growth_sources, slot_order
from .subnet import Subnet

__all__ = [
    'GrowthOperator', 'IdentityInit', 'Interpolation', 'MoGrow', 'OneShotSearch', 'RandomInit',
    'SearchBounds', 'Stacking', 'Stage', 'Subnet', 'build_schedule', 'choose', 'evaluation_steps',
    'growth_sources', 'round_to', 'slot_order', 'stage_candidates', 'stage_choices'
]
