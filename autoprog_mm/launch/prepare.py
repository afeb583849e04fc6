# Copyright (c) the autoprog_mm authors. All rights reserved.
"""From a config file and the command line to a config that can run here, and its runner."""
import argparse
import logging
import os
import os.path as osp
import warnings
from glob import glob
from typing import Mapping

from mmengine.config import Config, ConfigDict
from mmengine.config.utils import ConfigParsingError
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ..utils.errors import UserError
from .dataloaders import DATALOADERS
from .device import adapt_to_device, enable_amp
from .errors import user_message
from .own_data import fill_custom_config

_FALLING = ('CosineAnnealingLR', 'PolyLR')


def read_config(path: str) -> Config:
    """Read a config file.

    Args:
        path (str): The file.

    Returns:
        Config: The config.

    Raises:
        UserError: If it, or one of its bases, is missing or can't be parsed.
    """
    if not osp.isfile(path):
        raise UserError(f'config: there is no file {path!r}.')
    try:
        return Config.fromfile(path)
    except (OSError, SyntaxError, ConfigParsingError) as error:
        raise UserError(f'config: {path!r} cannot be read: {error}') from error
    except (KeyError, TypeError) as error:  # of bases with one key, or of a dict over a text
        raise UserError(f'config: {path!r} cannot be read: {type(error).__name__}: '
                        f'{error}') from error


def prepare_config(cfg: Config, args: argparse.Namespace) -> Config:
    """Merge the command line into a config and adapt it to this machine.

    Args:
        cfg (Config): The config as read from its file; changed in place.
        args (Namespace): Of ``tools/train.py`` or ``tools/test.py``.

    Returns:
        Config: ``cfg``.

    Raises:
        UserError: For what can't work.
    """
    cfg.launcher = args.launcher
    # Priority: command line, then the file's work_dir, then the file's name.
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join('./work_dirs', osp.splitext(osp.basename(args.config))[0])
    _merge_training(cfg, args)
    _set_dataloaders(cfg, args)
    options = args.cfg_options or {}
    _merge_options(cfg, options)

    checkpoint = getattr(args, 'checkpoint', None)
    found = fill_custom_config(cfg, options, _num_processes(args.launcher), checkpoint)
    if found and os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0')) == '0':
        print(found, flush=True)
    if checkpoint is None:
        _warn_of_schedule(cfg)
    if args.amp and not hasattr(args, 'checkpoint'):
        enable_amp(cfg)
    adapt_to_device(cfg)
    return cfg


def build_runner(cfg: Config) -> Runner:
    """Build the runner of a config.

    Args:
        cfg (Config): From :func:`prepare_config`.

    Returns:
        Runner: Its runner.

    Raises:
        UserError: If a part of the config can't be built, or parts don't fit
            together.
    """
    try:
        return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    except ValueError as error:
        raise UserError(user_message(error) or f'config: {error}') from error


def _merge_training(cfg: Config, args: argparse.Namespace) -> None:
    """Merge what only ``tools/train.py`` has."""
    if getattr(args, 'no_validate', False):
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    if getattr(args, 'auto_scale_lr', False):
        if not cfg.get('auto_scale_lr'):
            raise UserError(
                '--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in the config.')
        cfg.auto_scale_lr.enable = True
    resume = getattr(args, 'resume', None)
    if resume == 'auto' and cfg.get('load_from') and not glob(osp.join(cfg.work_dir, '*.pth')):
        # A first start, of a run that begins with others' weights.
        cfg.resume = False
    elif resume is not None:
        cfg.resume = True
        cfg.load_from = None if resume == 'auto' else resume


def _set_dataloaders(cfg: Config, args: argparse.Namespace) -> None:
    """Set what dataloaders leave open, and what the command line says of them."""
    for name in DATALOADERS:
        if cfg.get(name) is None:
            continue
        defaults = dict(pin_memory=True, collate_fn=dict(type='default_collate'))
        if cfg[name].get('num_workers', 0) > 0:
            defaults['persistent_workers'] = True
        cfg[name] = ConfigDict({**defaults, **cfg[name]})
        if args.no_pin_memory:
            cfg[name].pin_memory = False
        if getattr(args, 'no_persistent_workers', False):
            cfg[name].persistent_workers = False


def _merge_options(cfg: Config, options: Mapping[str, object]) -> None:
    """Merge ``--cfg-options``."""
    if not options:
        return
    for key in options:
        if key.split('.')[0] not in cfg:
            warnings.warn(
                f'--cfg-options {key}: the config has no key "{key.split(".")[0]}" yet. It is '
                'added; check its spelling.',
                stacklevel=3)
    try:
        cfg.merge_from_dict(options)
    except (KeyError, TypeError) as error:  # no such place in a list, or a setting of a number's
        raise UserError(f'--cfg-options: {error.args[0]}') from error
    for name in DATALOADERS:  # which may now have no workers
        if cfg.get(name) is not None and cfg[name].get('num_workers', 0) == 0:
            cfg[name].persistent_workers = False


def _num_processes(launcher: str) -> int:
    """How many processes train, as the launcher says, before they know each other."""
    name = dict(pytorch='WORLD_SIZE', slurm='SLURM_NTASKS', mpi='OMPI_COMM_WORLD_SIZE')
    return int(os.environ.get(name.get(launcher, ''), 1))


def _warn_of_schedule(cfg: Config) -> None:
    """Warn of a learning rate that falls, or warms up, for other epochs than there are."""
    max_epochs = (cfg.get('train_cfg') or {}).get('max_epochs')
    schedulers = cfg.get('param_scheduler') or []
    found = {f'param_scheduler.{i}': scheduler for i, scheduler in enumerate(schedulers)} if \
        isinstance(schedulers, list) else {'param_scheduler': schedulers}
    for key, scheduler in found.items():
        end = scheduler.get('end')
        if max_epochs is None or not scheduler.get('by_epoch', True):
            continue
        if scheduler.get('type') == 'LinearLR' and (end is None or end > max_epochs):
            print_log(
                f'train_cfg.max_epochs is {max_epochs}, but the learning rate warms up '
                f'{"for ever" if end is None else f"until epoch {end}"}: it does not come to its '
                f'full value. Set {key}.end, if that is not meant.',
                'current', logging.WARNING)
        if end not in (None, max_epochs) and scheduler.get('type') in _FALLING:
            print_log(
                f'train_cfg.max_epochs is {max_epochs}, but the learning rate falls until epoch '
                f'{end}. Set {key}.end={max_epochs}, too, if that is not meant.',
                'current', logging.WARNING)
