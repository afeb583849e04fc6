# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What the benchmarks share: a config's model on this machine, and batches for it."""
import json
import os.path as osp
import sys
import time
from typing import Callable, List, Tuple

# Works from a checkout that is not installed, too.
sys.path.insert(0, osp.join(osp.dirname(osp.realpath(__file__)), '..', '..'))

import autoprog_mm  # noqa: F401  isort: skip  (before anything that imports torchvision)

import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from autoprog_mm import launch
from autoprog_mm.growth import build_schedule
from autoprog_mm.growth.schedule import Stage
from autoprog_mm.utils import write_atomically


def read_config(path: str) -> Config:
    """A config, whose parts can be built from now on."""
    init_default_scope('mmpretrain')
    MMLogger.get_instance('mmengine', log_level='ERROR')  # of a line a parameter
    return launch.read_config(path)


def build_model(cfg: Config, device: torch.device) -> nn.Module:
    torch.manual_seed(0)
    return MODELS.build(cfg.model).to(device)


def wrap_optimizer(cfg: Config, model: nn.Module, device: torch.device) -> OptimWrapper:
    """The config's optimizer wrapper, in full precision where there is no other."""
    settings = cfg.optim_wrapper.to_dict()
    if device.type == 'cpu':
        full_precision = {amp: full for full, amp in launch.AMP_TYPES.items()}
        settings['type'] = full_precision.get(settings['type'], settings['type'])
        settings.pop('dtype', None)
    wrapper = build_optim_wrapper(model, settings)
    wrapper.initialize_count_status(model, 0, 10**9)
    return wrapper


def read_stages(cfg: Config, model: nn.Module) -> List[Stage]:
    """The schedule of a config, whose first hook is AutoProgHook."""
    hook = cfg.custom_hooks[0]
    return build_schedule(
        hook.get('num_stages', 4), cfg.train_cfg.max_epochs, model.backbone.full_subnet,
        dict(hook.get('initial_scale', dict(depth=0.5, resolution=0.5))),
        resolution_divisor=hook.get('resolution_divisor', 32))


def make_batch(size: int, resolution: int, channels: int = 3) -> dict:
    """Random images of classes that repeat."""
    images = torch.randint(0, 256, (size, channels, resolution, resolution), dtype=torch.uint8)
    return dict(inputs=images, data_samples=[DataSample().set_gt_label(i % 2)
                                             for i in range(size)])


def seconds(action: Callable[[], object], device: torch.device) -> float:
    """How long something takes, on the device, too."""
    if device.type == 'cuda':
        torch.cuda.synchronize()
    begin = time.perf_counter()
    action()
    if device.type == 'cuda':
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def find_device() -> Tuple[torch.device, str]:
    """The device, and its name."""
    if torch.cuda.is_available():
        return torch.device('cuda'), torch.cuda.get_device_name()
    return torch.device('cpu'), f'CPU, {torch.get_num_threads()} threads'


def write_json(path: str, content: dict) -> None:
    if path:
        write_atomically(path, json.dumps(content, indent=2) + '\n')
