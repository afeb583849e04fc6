# Copyright (c) the autoprog_mm authors. All rights reserved.
"""A growing network is a full-size network plus this small tuple."""
from dataclasses import astuple, dataclass
from typing import Iterable

from ..utils.checks import check_int


@dataclass(frozen=True, order=True)
class Subnet:
    """What runs of the full network, and at which input size.

    Args:
        depth (int): Number of slots (blocks) that run.
        resolution (int): Height and width of the training images, in pixels.
    """

    depth: int
    resolution: int

    def __post_init__(self):
        for name in ('depth', 'resolution'):
            check_int(f'Subnet.{name}', getattr(self, name))

    @classmethod
    def covering(cls, subnets: Iterable['Subnet']) -> 'Subnet':
        """The smallest subnet of which all of some are parts."""
        return cls(*map(max, zip(*map(astuple, subnets))))

    def __str__(self) -> str:
        return f'{self.depth}x{self.resolution}'
