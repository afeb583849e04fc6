# Copyright (c) the autoprog_mm authors. All rights reserved.
from copy import deepcopy
from functools import partial
from typing import Dict, Optional, Sequence, Union

import torch
import torch.nn as nn
from mmengine.optim import OptimWrapper
from mmpretrain.registry import OPTIM_WRAPPERS

from ...growth.growing import grow
from ...growth.operators import GrowthOperator, build_operator
from ...growth.subnet import Subnet
from ...utils.checks import check_number
from ...utils.errors import UserError
from ...utils.host_copy import HostCopy
from ...utils.modules import unwrap
from .epoch_accumulation import EpochAccumulation
from .finite_steps import FiniteSteps
from .momentum_copies import MomentumCopies

OPTIMIZER_STATES = ('keep', 'reset')


class MoGrowMixin(EpochAccumulation):
    """Momentum copies and growth for an optimizer wrapper.

    It alone changes weights, momentum weights and optimizer state. After each
    optimizer step, :class:`MomentumCopies` move over the awake parameters. A
    step whose gradients are not finite changes nothing: :class:`FiniteSteps`
    leaves it out, on all ranks alike, since gradients are reduced before.

    Args:
        *args: As the optimizer wrapper that this is mixed into.
        ema_decays (Sequence[float]): Decay of each momentum copy, in (0, 1).
            The first copy scores searches, the last one feeds growth and
            validation. Defaults to (0.998, 0.9996).
        growth (dict | GrowthOperator): How waking slots are filled, one of
            ``autoprog_mm.registry.GROWTH_OPERATORS``.
            Defaults to ``dict(type='MoGrow')``.
        optimizer_state (str): At growth, ``'keep'`` the moments of what was
            awake, or ``'reset'`` them all. Waking slots start afresh in
            either case. Defaults to ``'keep'``.
        **kwargs: As the optimizer wrapper that this is mixed into.

    Raises:
        ValueError: For decays outside (0, 1) or none, an unknown operator or
            an unknown ``optimizer_state``.
    """

    def __init__(self,
                 *args,
                 ema_decays: Sequence[float] = (0.998, 0.9996),
                 growth: Union[dict, GrowthOperator, None] = None,
                 optimizer_state: str = 'keep',
                 **kwargs) -> None:
        decays = tuple(ema_decays) if isinstance(ema_decays, (list, tuple)) else (ema_decays, )
        if not decays:
            raise UserError(
                'ema_decays of the optimizer wrapper must not be empty: growth and search need a '
                'momentum copy. Its default is (0.998, 0.9996).')
        for decay in decays:
            check_number('each of ema_decays of the optimizer wrapper', decay, 0, 1, above=True,
                         below=True)
        if optimizer_state not in OPTIMIZER_STATES:
            raise UserError(
                f'optimizer_state must be one of {OPTIMIZER_STATES}, but got '
                f'{optimizer_state!r}.')
        super().__init__(*args, **kwargs)
        self.ema_decays = decays
        self.optimizer_state = optimizer_state
        self.growth_operator = build_operator(growth or dict(type='MoGrow'))
        by_norm = self.clip_grad_kwargs and self.clip_func is torch.nn.utils.clip_grad_norm_
        self._finite_steps = FiniteSteps(
            self.optimizer, self.clip_grad_kwargs.get('norm_type', 2.) if by_norm else None)
        self._model: Optional[nn.Module] = None
        self._momentum: Optional[MomentumCopies] = None
        self._loaded: Optional[dict] = None  # momentum that waits for the model
        self._step_hook = None

    # ------------------------------------------------------------------ model

    def initialize_count_status(self, model: nn.Module, init_counts: int,
                                max_counts: int) -> None:
        """Take the model, which the Runner hands over here, and copy its weights."""
        super().initialize_count_status(model, init_counts, max_counts)
        self._model = unwrap(model)
        self._momentum = MomentumCopies(self._model, self.ema_decays)
        if self._loaded is not None:
            self._momentum.load_state_dict(self._loaded)
            self._loaded = None
        # The optimizer calls this after each step that it really makes: not
        # when gradients accumulate, nor when a gradient scaler leaves one out.
        if self._step_hook is not None:
            self._step_hook.remove()
        self._step_hook = self.optimizer.register_step_post_hook(self._move_momentum)

    def _move_momentum(self, optimizer, *_) -> None:
        # A fused optimizer leaves steps out by itself.
        self._momentum.update(getattr(optimizer, 'found_inf', None))

    @property
    def initialized(self) -> bool:
        """bool: Whether the wrapper has its model, and so momentum copies."""
        return self._momentum is not None

    def momentum_weights(self, index: int = -1) -> Dict[str, torch.Tensor]:
        """One momentum copy.

        Args:
            index (int): Which of ``ema_decays``. Defaults to -1, the last.

        Returns:
            dict[str, Tensor]: The copy itself, by parameter name.
        """
        return self._momentum.weights(index)

    def swap_momentum(self) -> None:
        """Exchange the online weights with the last momentum copy, in place.

        A second call brings both back. Parameters keep their identity.
        """
        self._momentum.swap()

    @property
    def swapped(self) -> bool:
        """bool: Whether the parameters hold the momentum weights now."""
        return self.initialized and self._momentum.swapped

    def twin(self) -> 'MoGrowMixin':
        """A copy of this wrapper with a copy of its model, for steps that leave no trace."""
        twin = deepcopy(self)
        vars(twin).pop('step', None)  # where schedulers count the steps of this one
        # An optimizer's copy has none of its hooks.
        twin._step_hook = twin.optimizer.register_step_post_hook(twin._move_momentum)
        return twin

    # ------------------------------------------------------------------ steps

    def update_params(self, loss: torch.Tensor, *args, **kwargs) -> None:
        self._finite_steps.left_out = None
        super().update_params(loss, *args, **kwargs)

    def step(self, **kwargs) -> None:
        """Update the parameters, unless gradients are not finite."""
        make_step = partial(super().step, **kwargs)
        scaler = getattr(self, 'loss_scaler', None)
        # A gradient scaler looks for itself, and expects overflows.
        if not self.initialized or (scaler is not None and scaler.is_enabled()):
            make_step()
        else:
            self._finite_steps.step(self._momentum.awake, make_step)

    @property
    def left_out(self) -> Optional[HostCopy]:
        """HostCopy | None: Whether the last update was left out, for its gradients were
        not finite; None if there was no update, or nobody looked."""
        return self._finite_steps.left_out

    def backward_part(self, loss: torch.Tensor) -> None:
        """Backward of a part of a step, whose last part goes to :meth:`update_params`.

        Args:
            loss (Tensor): The part's share of the loss.
        """
        self.backward(self.scale_loss(loss))
        self._inner_count -= 1  # it counts steps

    def _clip_grad(self) -> None:
        """Clip in the model's order, for a norm depends on it in its last bits."""
        if not self.initialized:
            super()._clip_grad()
            return
        parameters = [p for p in self._momentum.awake if p.grad is not None]
        if not parameters:
            return
        norm = self._finite_steps.clip(parameters, self.clip_func, **self.clip_grad_kwargs)
        if norm is not None:  # clipping by value has none
            norm = self._finite_steps.arrived(norm)
        if norm is not None:
            self.message_hub.update_scalar(f'train/{self.grad_name}', norm)

    # ----------------------------------------------------------------- growth

    def grow(self, backbone: nn.Module, subnet: Subnet) -> None:
        """Grow ``backbone`` to ``subnet``: the only way in which a run grows.

        Weights are written in place; no parameter, optimizer group or
        momentum copy is replaced. The warm-up of the momentum starts again.

        Args:
            backbone (ElasticBackbone): The backbone of this wrapper's model.
            subnet (Subnet): At least as deep as what is awake.

        Raises:
            ValueError: If the subnet doesn't fit the backbone or is shallower
                than what is awake.
        """
        copies = [self.momentum_weights(i) for i in range(len(self.ema_decays))]
        woken = grow(backbone, subnet, self.growth_operator, self._model, copies)
        if self.optimizer_state == 'reset':
            self.optimizer.state.clear()
        for slot in woken:
            self._forget(slot)
        self._momentum.restart()

    def shrink(self, backbone: nn.Module, subnet: Subnet) -> None:
        """Go on with a part of what is awake, as a search has chosen it.

        All weights stay as the supernet left them; slots that fall asleep
        lose their optimizer state.

        Args:
            backbone (ElasticBackbone): The backbone of this wrapper's model.
            subnet (Subnet): At most as deep as what is awake.

        Raises:
            ValueError: If it is deeper, or doesn't fit the backbone.
        """
        if subnet.depth > backbone.awake_subnet.depth:
            raise UserError(
                f'shrink() can only put slots to sleep, but {subnet} is deeper than '
                f'{backbone.awake_subnet}; use grow().')
        backbone.set_subnet(subnet)
        for slots, awake in zip(backbone.slot_groups, backbone.slots_at(subnet.depth)):
            for index, slot in enumerate(slots):
                if index not in awake:
                    self._forget(slot)
        self._momentum.find_awake()

    def _forget(self, slot: nn.Module) -> None:
        for param in slot.parameters():
            self.optimizer.state.pop(param, None)

    # ------------------------------------------------------------ checkpoints

    def state_dict(self) -> dict:
        """dict: The optimizer's state, and the momentum copies under ``momentum``."""
        state = super().state_dict()
        if self.initialized:
            state['momentum'] = self._momentum.state_dict()
        elif self._loaded is not None:
            state['momentum'] = self._loaded
        return state

    def load_state_dict(self, state_dict: dict) -> None:
        """Load what :meth:`state_dict` gave.

        On resume this comes before the wrapper has its model; the momentum
        copies wait until then.

        Args:
            state_dict (dict): From :meth:`state_dict`.

        Raises:
            ValueError: If it has no momentum copies, or those of other decays.
        """
        state_dict = dict(state_dict)
        momentum = state_dict.pop('momentum', None)
        if momentum is None:
            raise UserError(
                f'The optimizer state has no momentum copies, so it is not of a '
                f'{type(self).__name__}. Use load_from without resume to start from its weights.')
        if list(momentum['decays']) != list(self.ema_decays):
            raise UserError(
                f'ema_decays is {list(self.ema_decays)}, but the checkpoint was made with '
                f'{list(momentum["decays"])}; set the same to resume.')
        super().load_state_dict(state_dict)
        if self.initialized:
            self._momentum.load_state_dict(momentum)
        else:
            self._loaded = momentum


@OPTIM_WRAPPERS.register_module()
class MoGrowOptimWrapper(MoGrowMixin, OptimWrapper):
    """mmengine's ``OptimWrapper`` with momentum copies and growth.

    Args:
        *args: As ``OptimWrapper``.
        **kwargs: As ``OptimWrapper`` and :class:`MoGrowMixin`: ``ema_decays``,
            ``growth`` and ``optimizer_state``.
    """
