# Copyright (c) the autoprog_mm authors. All rights reserved.
import logging
import math
from typing import Dict, List, Optional, Sequence, Union

import torch
import torch.nn as nn
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmpretrain.registry import OPTIM_WRAPPERS

from ...growth.operators import GroupGrowth, GrowthOperator
from ...growth.subnet import Subnet
from ...registry import GROWTH_OPERATORS
from ...utils.errors import UserError
from ...utils.host_copy import HostCopy

OPTIMIZER_STATES = ('keep', 'reset')


class MoGrowMixin:
    """Momentum copies and growth for an optimizer wrapper.

    It alone changes weights, momentum weights and optimizer state. After each
    optimizer step every momentum copy moves by ``ema = d * ema + (1 - d) * w``
    over the awake parameters, with ``d = min(decay, (1 + t) / (10 + t))`` and
    t the optimizer steps since the start or the last growth.

    A step whose gradients are not finite changes nothing: it is left out, on
    all ranks alike, since gradients are reduced before. With a fused optimizer
    on CUDA the device itself leaves it out, and the host, which doesn't wait
    for it, learns of it a step later.

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
        decays = list(ema_decays) if isinstance(ema_decays, Sequence) else [ema_decays]
        if not decays:
            raise UserError(
                'ema_decays of the optimizer wrapper must not be empty: growth and search need a '
                'momentum copy. Its default is (0.998, 0.9996).')
        for decay in decays:
            if not isinstance(decay, float) or not 0 < decay < 1:
                raise UserError(
                    f'ema_decays of the optimizer wrapper must be floats in (0, 1), but got '
                    f'{ema_decays!r}.')
        if optimizer_state not in OPTIMIZER_STATES:
            raise UserError(
                f'optimizer_state must be one of {OPTIMIZER_STATES}, but got '
                f'{optimizer_state!r}.')
        super().__init__(*args, **kwargs)
        self.ema_decays = tuple(decays)
        self.optimizer_state = optimizer_state
        self.growth_operator = _build_operator(growth or dict(type='MoGrow'))
        self._model: Optional[nn.Module] = None
        # One list of tensors a decay, in the order of `_params`.
        self._momentum: List[List[torch.Tensor]] = []
        self._momentum_steps = 0
        self._swapped = False
        self._left_out: Optional[HostCopy] = None  # of the last update
        self._uncounted: List[HostCopy] = []  # whether steps counted in advance were left out
        self._norm: Optional[torch.Tensor] = None  # of the gradients that are about to be clipped
        self._late_norm: Optional[HostCopy] = None  # of the step before, to be logged
        self._loaded: Optional[dict] = None
        self._step_hook = None

    # ------------------------------------------------------------------ model

    def initialize_count_status(self, model: nn.Module, init_counts: int,
                                max_counts: int) -> None:
        """Take the model, which the Runner hands over here, and copy its weights.

        Args:
            model (nn.Module): The model, wrapped or not.
            init_counts (int): Steps done.
            max_counts (int): Steps of the whole run.
        """
        super().initialize_count_status(model, init_counts, max_counts)
        self._model = model.module if is_model_wrapper(model) else model
        self._names = [name for name, _ in self._model.named_parameters()]
        self._params = list(self._model.parameters())
        self._swapped = False
        self._momentum = [[p.detach().clone() for p in self._params] for _ in self.ema_decays]
        self._momentum_steps = 0
        if self._loaded is not None:
            self._load_momentum(self._loaded)
            self._loaded = None
        self._find_awake()
        # The optimizer calls this after each step that it really makes: not
        # when gradients accumulate, nor when a gradient scaler leaves one out.
        if self._step_hook is not None:
            self._step_hook.remove()
        self._step_hook = self.optimizer.register_step_post_hook(self._move_momentum)

    @property
    def initialized(self) -> bool:
        """bool: Whether the wrapper has its model, and so momentum copies."""
        return self._model is not None

    def momentum_weights(self, index: int = -1) -> Dict[str, torch.Tensor]:
        """One momentum copy.

        Args:
            index (int): Which of ``ema_decays``. Defaults to -1, the last.

        Returns:
            dict[str, Tensor]: The copy itself, by parameter name.
        """
        return dict(zip(self._names, self._momentum[index]))

    @torch.no_grad()
    def swap_momentum(self) -> None:
        """Exchange the online weights with the last momentum copy, in place.

        A second call brings both back. Parameters keep their identity.
        """
        self._swapped = not self._swapped
        online = [p.detach().clone() for p in self._params]
        torch._foreach_copy_(self._params, self._momentum[-1])
        torch._foreach_copy_(self._momentum[-1], online)

    @property
    def swapped(self) -> bool:
        """bool: Whether the parameters hold the momentum weights now."""
        return self._swapped

    # ------------------------------------------------------------------ steps

    def update_params(self, loss: torch.Tensor, *args, **kwargs) -> None:
        """See mmengine's ``OptimWrapper.update_params``.

        Args:
            loss (Tensor): The loss.
            *args: ``step_kwargs`` and ``zero_kwargs``.
            **kwargs: The same by name.
        """
        self._left_out = None
        super().update_params(loss, *args, **kwargs)

    def step(self, **kwargs) -> None:
        """Update the parameters, unless gradients are not finite.

        Args:
            **kwargs: As the optimizer's ``step``.
        """
        self._norm = None
        self._count_left_out()
        scaler = getattr(self, 'loss_scaler', None)
        # A gradient scaler looks for itself, and expects overflows.
        if not self.initialized or (scaler is not None and scaler.is_enabled()):
            super().step(**kwargs)
            return
        bad = self._gradients_not_finite()
        if bad is None:
            super().step(**kwargs)
            return
        self._left_out = HostCopy(bad)
        if not self._skips_on_device(bad):
            if not self._left_out.get():
                super().step(**kwargs)
            return
        self.optimizer.grad_scale, self.optimizer.found_inf = None, bad.float()
        try:
            super().step(**kwargs)
        finally:
            del self.optimizer.grad_scale, self.optimizer.found_inf

    def _gradients_not_finite(self) -> Optional[torch.Tensor]:
        """Tensor | None: Whether a gradient is not finite; None if there are none."""
        gradients = [p.grad for p in self._awake if p.grad is not None]
        if not gradients:
            return None
        if self.clip_grad_kwargs and self.clip_func is torch.nn.utils.clip_grad_norm_:
            self._norm = torch.nn.utils.get_total_norm(
                gradients, self.clip_grad_kwargs.get('norm_type', 2.))
            return ~self._norm.isfinite()
        return ~torch.stack(torch._foreach_norm(gradients)).isfinite().all()

    def _skips_on_device(self, tensor: torch.Tensor) -> bool:
        # As torch's gradient scaler asks: fused optimizers take `found_inf`.
        return HostCopy.is_late(tensor) and getattr(
            self.optimizer, '_step_supports_amp_scaling', False)

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
        parameters = [p for p in self._awake if p.grad is not None]
        if not parameters:
            return
        if self._norm is None:
            norm = self.clip_func(parameters, **self.clip_grad_kwargs)
        else:
            norm = self._norm
            torch.nn.utils.clip_grads_with_norm_(
                parameters, self.clip_grad_kwargs['max_norm'], norm)
        if norm is not None:  # clipping by value has none
            self._log_norm(norm)

    def _log_norm(self, norm: torch.Tensor) -> None:
        copy = HostCopy(norm)
        arrived, self._late_norm = \
            (self._late_norm, copy) if HostCopy.is_late(norm) else (copy, None)
        if arrived is not None and math.isfinite(arrived.get()):  # else its step was left out
            self.message_hub.update_scalar(f'train/{self.grad_name}', arrived.get())

    @property
    def left_out(self) -> Optional[HostCopy]:
        """HostCopy | None: Whether the last update was left out, for its gradients were
        not finite; None if there was no update, or nobody looked."""
        return self._left_out

    @torch.no_grad()
    def _move_momentum(self, *_) -> None:
        decays = [min(decay, (1 + self._momentum_steps) / (10 + self._momentum_steps))
                  for decay in self.ema_decays]
        self._momentum_steps += 1
        # A fused optimizer leaves steps out by itself, and so must this, without asking.
        found_inf = getattr(self.optimizer, 'found_inf', None)
        for decay, copies in zip(decays, self._awake_momentum):
            if found_inf is None:
                torch._foreach_lerp_(copies, self._awake, 1 - decay)
            else:
                moves = torch._foreach_sub(self._awake, copies)
                torch._foreach_mul_(moves, (1 - decay) * (1 - found_inf.reshape(())))
                torch._foreach_add_(copies, moves)
        if found_inf is not None:
            self._uncounted.append(HostCopy(found_inf))

    def _count_left_out(self) -> None:
        """Take back the counts of steps that were left out."""
        for flag in self._uncounted:
            self._momentum_steps -= bool(flag.get())
        self._uncounted.clear()

    def _find_awake(self) -> None:
        awake = [i for i, param in enumerate(self._params) if param.requires_grad]
        self._awake = [self._params[i] for i in awake]
        self._awake_momentum = [[copies[i] for i in awake] for copies in self._momentum]

    # ----------------------------------------------------------------- growth

    @torch.no_grad()
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
        backbone.check_subnet(subnet)
        before = backbone.slots_at(backbone.awake_subnet.depth)
        after = backbone.slots_at(subnet.depth)
        growths = [
            GroupGrowth(slots, old, new, backbone, self._model)
            for slots, old, new in zip(backbone.slot_groups, before, after)
        ]
        waking = [slots.slots[index] for slots in growths for index in slots.sources]

        if self.growth_operator.adopts_momentum:
            torch._foreach_copy_(self._awake, self._awake_momentum[-1])
        for growth in growths:
            self.growth_operator(growth)
        self._interpolate_momentum(growths)

        if self.optimizer_state == 'reset':
            self.optimizer.state.clear()
        for slot in waking:
            self._forget(slot)
        backbone.set_subnet(subnet)
        self._momentum_steps = 0
        self._uncounted.clear()
        self._find_awake()

    def shrink(self, backbone: nn.Module, subnet: Subnet) -> None:
        """Go on with a part of what is awake, as a search has chosen it.

        All weights stay as the supernet left them; slots that fall asleep
        lose their optimizer state.

        Args:
            backbone (ElasticBackbone): The backbone of this wrapper's model.
            subnet (Subnet): At most as deep as what is awake.
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
        self._find_awake()

    def _forget(self, slot: nn.Module) -> None:
        for param in slot.parameters():
            self.optimizer.state.pop(param, None)

    def _interpolate_momentum(self, growths: Sequence[GroupGrowth]) -> None:
        place = {id(param): i for i, param in enumerate(self._params)}
        for growth in growths:
            for index, source in growth.sources.items():
                pairs = zip(growth.slots[index].parameters(), growth.slots[source].parameters())
                for target_param, source_param in pairs:
                    for copies in self._momentum:
                        copies[place[id(target_param)]].copy_(copies[place[id(source_param)]])

    # ------------------------------------------------------------ checkpoints

    def state_dict(self) -> dict:
        """dict: The optimizer's state, and the momentum copies under ``momentum``."""
        state = super().state_dict()
        if self.initialized:
            self._count_left_out()
            state['momentum'] = dict(
                steps=self._momentum_steps,
                decays=list(self.ema_decays),
                copies=[self.momentum_weights(i) for i in range(len(self.ema_decays))])
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
            self._load_momentum(momentum)
        else:
            self._loaded = momentum

    @torch.no_grad()
    def _load_momentum(self, state: dict) -> None:
        for mine, loaded in zip(self._momentum, state['copies']):
            if list(loaded) != self._names:
                different = sorted(set(loaded) ^ set(self._names))
                raise UserError(
                    f'The checkpoint\'s momentum copies are of another model; parameters that '
                    f'only one has: {different[:5]}.')
            for name, target in zip(self._names, mine):
                target.copy_(loaded[name])
        self._momentum_steps = state['steps']


def _build_operator(growth: Union[dict, GrowthOperator]) -> GrowthOperator:
    if isinstance(growth, GrowthOperator):
        return growth
    known = sorted(GROWTH_OPERATORS.module_dict)
    if not isinstance(growth, dict) or growth.get('type') not in known:
        raise UserError(
            f'growth of the optimizer wrapper must be a dict with a type of {known}, but got '
            f'{growth!r}.')
    # Not through `build`, which would look in the scope of mmpretrain first.
    options = {key: value for key, value in growth.items() if key != 'type'}
    return GROWTH_OPERATORS.module_dict[growth['type']](**options)


@OPTIM_WRAPPERS.register_module()
class MoGrowOptimWrapper(MoGrowMixin, OptimWrapper):
    """mmengine's ``OptimWrapper`` with momentum copies and growth.

    Args:
        *args: As ``OptimWrapper``.
        **kwargs: As ``OptimWrapper`` and :class:`MoGrowMixin`: ``ema_decays``,
            ``growth`` and ``optimizer_state``.
    """


@OPTIM_WRAPPERS.register_module()
class AmpMoGrowOptimWrapper(MoGrowMixin, AmpOptimWrapper):
    """:class:`MoGrowOptimWrapper` in mixed precision, on an accelerator.

    ``dtype='bfloat16'`` needs no gradient scaler and uses none. With
    ``'float16'``, a step that the scaler leaves out moves no momentum copy.

    Args:
        *args: As ``AmpOptimWrapper``.
        **kwargs: As ``AmpOptimWrapper`` (``dtype``, ``loss_scale`` and others)
            and :class:`MoGrowMixin`.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if self.cast_dtype is torch.bfloat16:
            if kwargs.get('loss_scale', 'dynamic') != 'dynamic':
                print_log(
                    f'loss_scale={kwargs["loss_scale"]!r} has no effect: bfloat16 needs no '
                    'gradient scaler.',
                    logger='current',
                    level=logging.WARNING)
            self.loss_scaler = type(self.loss_scaler)(enabled=False)
