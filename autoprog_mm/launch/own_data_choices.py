# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Sizes, batch, learning rate and stages, where a config for a folder leaves them open."""
from typing import Mapping

from mmpretrain.registry import TASK_UTILS

from ..growth.scoring import search_passes
from ..utils.errors import UserError

IMAGE_SIZES = (32, 64, 96, 128, 224)
PATCH_SIZES = (16, 8, 4)
_ENLARGED = 1.25  # at most: what has more pixels than the file costs time and shows nothing new
_LEAST_PATCHES = 8  # a side
_FULL_PATCHES = 14  # a side, as of DeiT at 224 pixels
_BATCH_SIZES = (128, 64, 32, 16, 8)
_LEAST_STEPS = 16  # of an epoch, for which the batch gets smaller
_STAGES = 4  # the paper's
_SEARCH_EPOCHS = (2, 1)
_CANDIDATES = 9  # of a search, at most


def choose_image_size(short_side: float) -> int:
    """The full resolution for images of a size.

    Args:
        short_side (float): Their typical short side, in pixels.

    Returns:
        int: The largest of :data:`IMAGE_SIZES` to which such images are
        enlarged by no more than a quarter.
    """
    return max((size for size in IMAGE_SIZES if size <= _ENLARGED * short_side),
               default=IMAGE_SIZES[0])


def choose_patch_size(image_size: int) -> int:
    """The patch size for a resolution.

    Args:
        image_size (int): The full resolution.

    Returns:
        int: The largest of :data:`PATCH_SIZES` that divides it into at least
        eight patches a side, or else the smallest that divides it.

    Raises:
        ValueError: If none does.
    """
    fitting = [patch for patch in PATCH_SIZES if image_size % patch == 0]
    if not fitting:
        raise UserError(
            f'image_size must be a multiple of {PATCH_SIZES[-1]}, but got {image_size!r}; or set '
            'patch_size to a divisor of it.')
    return next((patch for patch in fitting if image_size // patch >= _LEAST_PATCHES),
                fitting[-1])


def choose_divisor(image_size: int, patch_size: int) -> int:
    """The ``resolution_divisor`` of a schedule.

    Args:
        image_size (int): The full resolution.
        patch_size (int): The patch size.

    Returns:
        int: Two patches for as many as DeiT's at 224 pixels (the paper's 32),
        one patch for fewer, so that resolutions have enough steps to grow in.
    """
    if image_size // patch_size >= _FULL_PATCHES and image_size % (2 * patch_size) == 0:
        return 2 * patch_size
    return patch_size


def choose_batch_size(num_images: int) -> int:
    """The batch size of one process.

    Args:
        num_images (int): How many images it trains with in an epoch.

    Returns:
        int: 128, or less so that an epoch has at least 16 steps; 8 or all
        images where there are too few for that.
    """
    return next((size for size in _BATCH_SIZES if num_images >= _LEAST_STEPS * size),
                max(1, min(_BATCH_SIZES[-1], num_images)))


def choose_lr(batch_size: int) -> float:
    """The learning rate for a batch size.

    Args:
        batch_size (int): Of an update, of all processes.

    Returns:
        float: DeiT's 1e-3 at 1024, linearly, but at least 5e-4. Below a batch
        of 512, Adam needs no smaller steps, and a small folder has few.
    """
    return max(5e-4, 1e-3 * batch_size / 1024)


def choose_num_stages(budget: float) -> int:
    """The number of stages of a run.

    Args:
        budget (float): What the run may cost, in epochs of the full network.

    Returns:
        int: The paper's four, or as many as whole epochs of the full network,
        so that each stage has one whatever its subnet costs.
    """
    return max(1, min(_STAGES, int(budget)))


def choose_search(search: Mapping[str, object], budget: float, num_stages: int,
                  steps: int, budgeted: bool) -> int:
    """Epochs of a stage's search.

    Args:
        search (dict): Its other settings.
        budget (float): See :func:`choose_num_stages`.
        num_stages (int): Stages of the run.
        steps (int): Training steps of an epoch.
        budgeted (bool): Whether stages last as long as a budget, from which
            what a search does besides training is paid, too.

    Returns:
        int: 2, or 1 in short stages, so that what is chosen trains for as long
        as its search at least; 0 where there is no room for one.
    """
    for epochs in _SEARCH_EPOCHS:
        need = 2. * epochs
        if budgeted:
            settings = TASK_UTILS.build(dict(search, epochs=epochs))
            # A candidate costs two thirds of the full network, as a guess that is high.
            need += search_passes(settings, steps) * _CANDIDATES * 2 / 3 / steps
        if need <= budget / num_stages:
            return epochs
    return 0
