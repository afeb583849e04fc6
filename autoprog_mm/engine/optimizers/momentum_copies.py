# Copyright (c) the autoprog_mm authors. All rights reserved.
from typing import Dict, List, Optional, Sequence

import torch
import torch.nn as nn

from ...utils.errors import UserError
from ...utils.host_copy import HostCopy


class MomentumCopies:
    """Moving averages of a model's weights.

    After each optimizer step every copy moves by ``ema = d * ema + (1 - d) * w``
    over the awake parameters, with ``d = min(decay, (1 + t) / (10 + t))`` and t
    the steps since the start or the last growth. They begin as the weights.

    Args:
        model (Module): The model, without a model wrapper.
        decays (Sequence[float]): Decay of each copy, in (0, 1).
    """

    def __init__(self, model: nn.Module, decays: Sequence[float]) -> None:
        self.decays = list(decays)
        self.swapped = False  # whether the parameters hold the last copy now
        self.awake: List[nn.Parameter] = []  # in the model's order
        self._params = dict(model.named_parameters())
        self._copies = [{name: param.detach().clone() for name, param in self._params.items()}
                        for _ in self.decays]
        self._steps = 0
        self._uncounted: List[HostCopy] = []  # whether steps that are counted were left out
        self.find_awake()

    def weights(self, index: int = -1) -> Dict[str, torch.Tensor]:
        """One copy.

        Args:
            index (int): Which of the decays. Defaults to -1, the last.

        Returns:
            dict[str, Tensor]: The tensors themselves, by parameter name.
        """
        return dict(self._copies[index])

    def find_awake(self) -> None:
        """Follow the model, of which other parameters are awake now."""
        names = [name for name, param in self._params.items() if param.requires_grad]
        self.awake = [self._params[name] for name in names]
        self._moving = [[copy[name] for name in names] for copy in self._copies]

    def restart(self) -> None:
        """Begin the warm-up again, after a growth."""
        self._steps = 0
        self._uncounted.clear()
        self.find_awake()

    @torch.no_grad()
    def update(self, found_inf: Optional[torch.Tensor] = None) -> None:
        """Move all copies after a step.

        Args:
            found_inf (Tensor, optional): On the device, 1 if the optimizer left
                the step out, else 0. Nothing waits for it: then the copies move
                by nothing, and the step is taken off the count later.
                Defaults to None, it was not left out.
        """
        self._take_off_left_out()
        warm_up = (1 + self._steps) / (10 + self._steps)
        self._steps += 1
        for decay, copies in zip(self.decays, self._moving):
            share = 1 - min(decay, warm_up)
            if found_inf is None:
                torch._foreach_lerp_(copies, self.awake, share)
            else:
                moves = torch._foreach_sub(self.awake, copies)
                torch._foreach_mul_(moves, share * (1 - found_inf.reshape(())))
                torch._foreach_add_(copies, moves)
        if found_inf is not None:
            self._uncounted.append(HostCopy(found_inf))

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the weights with the last copy, in place; a second call brings both back."""
        self.swapped = not self.swapped
        params, copies = list(self._params.values()), list(self._copies[-1].values())
        online = [param.detach().clone() for param in params]
        torch._foreach_copy_(params, copies)
        torch._foreach_copy_(copies, online)

    def state_dict(self) -> dict:
        """dict: The copies themselves, their decays and the steps of the warm-up."""
        self._take_off_left_out()
        return dict(
            steps=self._steps,
            decays=list(self.decays),
            copies=[self.weights(i) for i in range(len(self.decays))])

    @torch.no_grad()
    def load_state_dict(self, state: dict) -> None:
        """Load what :meth:`state_dict` gave.

        Args:
            state (dict): From :meth:`state_dict`, of equal decays.

        Raises:
            ValueError: If it is of another model.
        """
        for mine, loaded in zip(self._copies, state['copies']):
            if list(loaded) != list(mine):
                raise UserError(
                    'The checkpoint\'s momentum copies are of another model; parameters that '
                    f'only one has: {sorted(set(loaded) ^ set(mine))[:5]}.')
            for name, copy in mine.items():
                copy.copy_(loaded[name])
        self._steps = state['steps']

    def _take_off_left_out(self) -> None:
        self._steps -= sum(bool(flag.get()) for flag in self._uncounted)
        self._uncounted.clear()
