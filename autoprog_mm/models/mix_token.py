# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What MixToken exchanges (section 3.2 of arXiv 2104.10858)."""
from typing import Tuple

import numpy as np
import torch


def draw_mask(height: int, width: int) -> Tuple[float, torch.Tensor]:
    """Draw the tokens that MixToken exchanges.

    Args:
        height (int): Rows of the grid of tokens.
        width (int): Columns of it.

    Returns:
        tuple[float, Tensor]: The share of tokens that stay, and a mask of the
        others, of shape (1, height, width, 1).
    """
    own_share, (top, bottom, left, right) = draw_box(height, width)
    # A mask, since a compiled graph is made for one shape.
    mask = torch.zeros(1, height, width, 1, dtype=torch.bool)
    mask[:, top:bottom, left:right] = True
    return own_share, mask


def draw_box(height: int, width: int) -> Tuple[float, Tuple[int, int, int, int]]:
    """Draw the box of tokens that MixToken exchanges.

    Its area is on average half of the grid, uniformly distributed before it
    is cut at the grid's border (CutMix with alpha 1).

    Args:
        height (int): Rows of the grid of tokens.
        width (int): Columns of it.

    Returns:
        tuple: The share of tokens outside of the box, and the box as
        ``(top, bottom, left, right)`` in tokens, the ends exclusive.
    """
    side = np.sqrt(1 - np.random.beta(1., 1.))
    edges = []
    for length in (height, width):
        size, center = int(length * side), np.random.randint(length)
        edges += [max(center - size // 2, 0), min(center + (size + 1) // 2, length)]
    top, bottom, left, right = edges
    return 1 - (bottom - top) * (right - left) / (height * width), (top, bottom, left, right)
