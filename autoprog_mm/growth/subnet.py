# Copyright (c) the autoprog_mm authors. All rights reserved.
"""A growing network is a full-size network plus this small tuple."""
from dataclasses import dataclass

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

    def __str__(self) -> str:
        return f'{self.depth}x{self.resolution}'
