# Copyright (c) the autoprog_mm authors. All rights reserved.
"""From a checkpoint of a finished run to one that timm or mmpretrain loads."""
import os
import os.path as osp
from copy import deepcopy
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import torch
import torch.nn as nn

from ..engine.checkpoint import MODEL_CONFIG, differing_parameters
from ..growth.subnet import Subnet
from ..models import SAVED_IN_MODEL, STATE, read_weights
from ..utils.config_files import read_config
from ..utils.errors import UserError
from ..utils.files import replacing
from ..version import __version__
from .plain_model import build_plain_model
from .targets import Target, find_target

FORMATS = ('timm', 'mmpretrain')
# Of logits, times the largest logit where that is above 1.
TOLERANCE = 1e-5
_NUM_IMAGES = 2


class Export(NamedTuple):
    """What :func:`export_checkpoint` did.

    Args:
        path (str): The file, absolute.
        difference (float): Largest absolute difference of logits.
        allowed (float): How large it might have been.
        code (list[str]): Lines of Python that load the file.
        images (dict): How the run normalised images, as options of
            mmpretrain's ``ClsDataPreprocessor``.
    """

    path: str
    difference: float
    allowed: float
    code: List[str]
    images: dict


def export_checkpoint(checkpoint: str, out: str, format: str,
                      config: Optional[str] = None) -> Export:
    """Turn a checkpoint of a finished run into one of timm's or mmpretrain's.

    The file is written beside its place, read back, loaded strictly into the
    library's own model, and takes its place only if that gives the logits of
    ours for random images. Otherwise what was in that place stays.

    Args:
        checkpoint (str): The checkpoint; its ``state_dict`` is exported.
        out (str): The file to (over)write. For timm it gets a state dict, for
            mmpretrain a dict of ``state_dict`` and ``meta``.
        format (str): ``'timm'`` or ``'mmpretrain'``.
        config (str, optional): Config file of the run. Defaults to None, to use
            what ``SafeCheckpointHook`` has put into the checkpoint.

    Returns:
        Export: What was measured, and how to load the file.

    Raises:
        ValueError: If the file is no checkpoint of plain data, its run is not
            finished, its config is missing or of another model,
            the library can't represent the model or gives other logits, or
            ``out`` can't be written.
    """
    if format not in FORMATS:
        raise UserError(f'--format must be one of {FORMATS}, but got {format!r}.')
    try:
        loaded = read_weights(checkpoint)
    except ValueError as error:
        raise UserError(f'CKPT: {error}') from None
    out = osp.abspath(out)
    if osp.isdir(out) or osp.exists(out) and osp.samefile(checkpoint, out):
        raise UserError(f'OUT must be a file to write, but {out!r} is '
                         f'{"a folder" if osp.isdir(out) else "the checkpoint itself"}.')
    meta = loaded.get('meta') if isinstance(loaded.get('meta'), dict) else {}
    source = build_plain_model(_read_config(checkpoint, loaded, config))
    saved = loaded['state_dict'].pop(SAVED_IN_MODEL, None)
    load_strictly(source.model, loaded['state_dict'],
                  "The checkpoint is not of the config's model; pass the config of its run with "
                  '--config')
    _check_finished(saved, loaded.get(STATE), source.model.backbone.full_subnet)

    target = find_target(source, format)
    content: Dict[str, Any] = {
        target.rename(name): value.clone()  # of a view it would save the whole
        for name, value in loaded['state_dict'].items()
    }
    if format == 'mmpretrain':
        about = dict(autoprog_mm_version=__version__, model=deepcopy(target.args[0]))
        if 'dataset_meta' in meta:  # class names, which mmpretrain reads
            about['dataset_meta'] = meta['dataset_meta']
        content = dict(state_dict=content, meta=about)
    difference, allowed = _write_checked(content, out, source.model, target)
    return Export(out, difference, allowed, target.code(out), source.images)


def load_strictly(model: nn.Module, weights: Dict[str, torch.Tensor], message: str) -> None:
    """Load weights that have the model's names and shapes, all of them.

    Args:
        model (Module): The model. mmpretrain's would resize a position
            embedding of another shape without a word; here that is an error.
        weights (dict[str, Tensor]): Its state dict.
        message (str): Beginning of the error's message.

    Raises:
        ValueError: If they don't; names the keys.
    """
    differing = differing_parameters(model.state_dict(), weights)
    if differing is not None:
        raise UserError(f'{message}: {differing}.')
    model.load_state_dict(weights, strict=True)


def _read_config(checkpoint: str, loaded: dict, path: Optional[str]) -> dict:
    if path is not None:
        return read_config(path, '--config').to_dict()
    config = loaded.get(MODEL_CONFIG)
    if not isinstance(config, dict):
        raise UserError(f'CKPT: {checkpoint!r} does not say what its model is built of, as '
                        'checkpoints of other libraries and of older versions do not. Pass the '
                        'config file of its run with --config.')
    return config


def _check_finished(saved: Optional[torch.Tensor], state: Optional[dict], full: Subnet) -> None:
    if saved is not None:
        awake = Subnet(*saved.tolist()[:2])
    elif state is not None:  # at full depth, the resolution may still grow
        awake = Subnet(*state['subnet'])
    else:  # of a run without AutoProgHook
        return
    if awake != full:
        raise UserError(
            f'CKPT: the run is not finished: only {awake} of {full} was awake, and the rest is not '
            'trained yet. Export a checkpoint of the last stage.')


def _write_checked(content: dict, out: str, model: nn.Module,
                   target: Target) -> Tuple[float, float]:
    try:
        os.makedirs(osp.dirname(out), exist_ok=True)
        with replacing(out) as beside:
            with open(beside, 'wb') as file:
                torch.save(content, file)
            return _check(beside, model, target)
    except OSError as error:
        raise UserError(f'OUT: {out!r} cannot be written ({error.strerror}).') from error


def _check(path: str, model: nn.Module, target: Target) -> Tuple[float, float]:
    """Read a file back into the library's model; the difference, and how large it may be."""
    read = torch.load(path, weights_only=True)
    try:
        theirs = target.build()
    except Exception as error:  # options that are anything can raise anything
        raise UserError(f'{target.builder} builds no such model: {error!r}.') from error
    load_strictly(theirs, read.get('state_dict', read), f'{target.builder} builds another model')
    difference, allowed = _compare(model, theirs)
    # Written so that nan fails.
    if not difference <= allowed:
        raise UserError(
            f'{target.builder} does not give the logits of this model: they differ by up to '
            f'{difference:.3g} where {allowed:.3g} is allowed. Nothing was written.')
    return difference, allowed


@torch.no_grad()
def _compare(model: nn.Module, theirs: nn.Module) -> Tuple[float, float]:
    resolution = model.backbone.full_subnet.resolution
    channels = next(m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d))
    images = torch.randn(_NUM_IMAGES, channels, resolution, resolution,
                         generator=torch.Generator().manual_seed(0))
    ours, others = model.eval()(images), theirs.eval()(images)
    return (ours - others).abs().max().item(), TOLERANCE * max(1., ours.abs().max().item())
