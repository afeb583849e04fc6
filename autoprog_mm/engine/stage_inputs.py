# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What a stage trains on: its samples, their size and how they are augmented."""
from typing import Iterator, List, Mapping, Optional, Tuple

import torch

from ..datasets.fixed_batches import fixed_batches
from ..datasets.seeded import seeded_dataloader
from ..growth.probe import labelled_batches
from ..utils import Randomness
from .run_parts import RunParts


class StageInputs:
    """Makes a run's samples functions of the seed, and sets what pipelines deliver.

    Args:
        runner (Runner): One that is about to train; it gets another loader.
        parts (RunParts): Its parts.
        randomness (Randomness): Its seeds.
    """

    def __init__(self, runner, parts: RunParts, randomness: Randomness) -> None:
        self._parts = parts
        self.loader, self.sampler = seeded_dataloader(
            runner.train_dataloader, randomness.seed, randomness.rank)
        runner.train_loop.dataloader = self.loader

    @property
    def num_steps(self) -> int:
        """int: Training steps of an epoch."""
        return len(self.loader)

    def apply(self, regularization: Mapping[str, float], resolution: int) -> None:
        """Deliver other images from the next epoch on.

        Args:
            regularization (dict): Strength of each scheduled regulariser.
            resolution (int): Height and width, in pixels.
        """
        self._parts.backbone.drop_path_rate = regularization['drop_path']
        self._parts.pipelines.set_strength(regularization)
        self._parts.pipelines.set_resolution(resolution)

    def draw(self, stage: int, num_batches: int) -> Iterator[dict]:
        """Training batches that are a function of seed and stage, see ``fixed_batches``."""
        return fixed_batches(self.loader, self.sampler, stage, num_batches)

    def draw_labelled(self, stage: int, num_batches: int
                      ) -> Optional[List[Tuple[torch.Tensor, torch.Tensor]]]:
        """Images and classes of :meth:`draw`; None if some image has not one class."""
        return labelled_batches(self.draw(stage, num_batches))

    @property
    def sampler_seed(self) -> Optional[int]:
        """int | None: Seed of the order of samples; None if the sampler has none."""
        return getattr(self.sampler.sampler, 'seed', None)

    @sampler_seed.setter
    def sampler_seed(self, seed: Optional[int]) -> None:
        if seed is not None:
            self.sampler.sampler.seed = seed
