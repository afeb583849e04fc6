# Copyright (c) the autoprog_mm authors. All rights reserved.
"""How long steps of subnets take on this machine, and how large their losses are."""
import time
from contextlib import contextmanager
from statistics import median
from typing import Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.dist import all_gather_object, all_reduce, broadcast_object_list

from ..utils import resize_batch
from .subnet import Subnet


def time_steps(model: nn.Module,
               optim_wrapper,
               subnets: Sequence[Subnet],
               images: torch.Tensor,
               labels: torch.Tensor,
               rounds: int = 5,
               num_parts: Optional[Callable[[int, Subnet], int]] = None) -> List[float]:
    """Seconds of a forward and backward pass of each subnet.

    Subnets take turns, so that a slow moment of the machine hits all; a first
    turn, which isn't counted, warms up. No weight, gradient or buffer changes.

    Args:
        model (Module): The classifier, without a model wrapper.
        optim_wrapper (OptimWrapper): For its autocast context.
        subnets (Sequence[Subnet]): No deeper than what is awake.
        images (Tensor): A preprocessed batch of shape (B, C, H, W), which is
            resized for each subnet.
        labels (Tensor): Classes, of shape (B, ).
        rounds (int): Turns that count. Defaults to 5.
        num_parts (Callable, optional): In how many parts so many images of a
            subnet are trained, one after the other. Defaults to None, in one.

    Returns:
        list[float]: Medians over the rounds.
    """
    inputs = {s.resolution: resize_batch(images, s.resolution) for s in subnets}
    counts = [1 if num_parts is None else num_parts(len(images), s) for s in subnets]
    buffers = _cloned_buffers(model)
    params = [param for param in model.parameters() if param.requires_grad]
    training = [(module, module.training) for module in model.modules()]
    model.train()
    times: Dict[int, List[float]] = {i: [] for i in range(len(subnets))}
    try:
        for turn in range(1 + rounds):
            for i, subnet in enumerate(subnets):
                with model.backbone.running(subnet):
                    _synchronize(images.device)
                    begin = time.perf_counter()
                    for part, classes in zip(inputs[subnet.resolution].tensor_split(counts[i]),
                                             labels.tensor_split(counts[i])):
                        with optim_wrapper.optim_context(model):
                            logits = torch.func.functional_call(model, buffers, (part, ))
                            loss = F.cross_entropy(logits.float(), classes)
                        torch.autograd.grad(loss, params, allow_unused=True)
                    _synchronize(images.device)
                    if turn:
                        times[i].append(time.perf_counter() - begin)
    finally:
        for module, mode in training:
            module.training = mode
    return [median(times[i]) for i in range(len(subnets))]


def time_candidates(model: nn.Module, optim_wrapper, candidates: Sequence[Subnet],
                    batch: Tuple[torch.Tensor, torch.Tensor], rounds: int,
                    num_parts: Optional[Callable[[int, Subnet], int]] = None) -> List[float]:
    """Seconds of a forward and backward pass of each candidate, on rank 0.

    All ranks time, since a model may synchronise in its forward pass; rank 0's
    times are the ones that count. A collective call.

    Args:
        model (Module): The classifier, without a model wrapper.
        optim_wrapper (OptimWrapper): For its autocast context.
        candidates (Sequence[Subnet]): No deeper than what is awake.
        batch (tuple): Images as they come from the loader, and classes.
        rounds (int): See :func:`time_steps`.
        num_parts (Callable, optional): See :func:`time_steps`. Defaults to None.

    Returns:
        list[float]: The same on all ranks.
    """
    images, labels = batch
    data = model.data_preprocessor(dict(inputs=images), training=False)['inputs']
    result = [time_steps(model, optim_wrapper, candidates, data, labels.to(data.device), rounds,
                         num_parts)]
    broadcast_object_list(result)
    return result[0]


def mean_losses(model: nn.Module, optim_wrapper, batches: Sequence[Tuple[torch.Tensor,
                                                                         torch.Tensor]],
                subnets: Sequence[Subnet], weights: Mapping[str, torch.Tensor]) -> List[float]:
    """Cross-entropy of subnets on the same batches, averaged over ranks.

    Nothing is disturbed: the weights go through ``torch.func.functional_call``,
    without drop path or mixing, and BatchNorm uses the batch's statistics but
    updates copies of its buffers. A collective call.

    Args:
        model (Module): The classifier, without a model wrapper.
        optim_wrapper (OptimWrapper): For its autocast context.
        batches (Sequence[tuple]): Images of shape (B, C, H, W) as they come
            from the loader, and classes of shape (B, ).
        subnets (Sequence[Subnet]): No deeper than what is awake; each batch is
            resized for them.
        weights (dict): In place of those of the model, by name.

    Returns:
        list[float]: The same on all ranks.
    """
    totals = torch.zeros(len(subnets) + 1, dtype=torch.float64)
    with _scoring_mode(model), torch.no_grad(), optim_wrapper.optim_context(model):
        buffers = _cloned_buffers(model)
        for images, labels in batches:
            data = model.data_preprocessor(dict(inputs=images), training=False)['inputs']
            labels = labels.to(data.device)
            totals[-1] += len(labels)
            for i, subnet in enumerate(subnets):
                with model.backbone.running(subnet):
                    logits = torch.func.functional_call(
                        model, {**weights, **buffers},
                        (resize_batch(data, subnet.resolution), ))
                logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
                totals[i] += F.cross_entropy(logits, labels, reduction='sum').cpu().double()
    all_reduce(totals)
    return (totals[:-1] / totals[-1]).tolist()


def labelled_batches(
        batches: Iterable[dict]) -> Optional[List[Tuple[torch.Tensor, torch.Tensor]]]:
    """Copies of batches as :func:`mean_losses` takes them.

    Args:
        batches (Iterable[dict]): Collated training batches: ``inputs`` of
            shape (B, C, H, W) or a list of (C, H, W), and ``data_samples``.

    Returns:
        list[tuple] | None: Images and classes; None, on all ranks, if some
        image of some rank has not one class. A collective call.
    """
    held, single = [], True
    for batch in batches:
        inputs = batch['inputs']
        # Copies, for loaders deliver into shared or pinned memory.
        images = inputs.clone() if isinstance(inputs, torch.Tensor) else torch.stack(list(inputs))
        labels = [sample.get('gt_label') for sample in batch['data_samples']]
        single = single and all(label is not None and label.numel() == 1 for label in labels)
        if single:
            held.append((images, torch.cat([label.view(1) for label in labels])))
    return held if all(all_gather_object(single)) else None


@contextmanager
def _scoring_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode for all but BatchNorm; the modes come back after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    for module, _ in modes:
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.training = True
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _cloned_buffers(model: nn.Module) -> Dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


@contextmanager
def all_awake(backbone) -> Iterator[None]:
    subnet, active = backbone.awake_subnet, backbone.running_subnet
    backbone.set_subnet(backbone.full_subnet)
    try:
        yield
    finally:
        backbone.set_subnet(subnet)
        backbone.set_running(None if active == subnet else active)


def _synchronize(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
