# Copyright (c) the autoprog_mm authors. All rights reserved.
"""From a config file and the command line to a config that can run here, and its runner."""
import argparse
import logging
import os
import os.path as osp
from typing import Mapping, Optional

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner, find_latest_checkpoint
from mmengine.utils import import_modules_from_strings

from ..engine import SafeCheckpointHook
from ..utils.errors import UserError, first_cause, one_line
from .dataloaders import DATALOADERS
from .device import adapt_to_device, enable_amp
from .errors import user_message
from .keys import check_keys, check_parts
from .options import as_whole, check_options
from .own_data import fill_custom_config, has_own_datasets

_FALLING = ('CosineAnnealingLR', 'CycleCosineLR', 'PolyLR')


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
    options = args.cfg_options or {}
    _merge_options(cfg, options)
    checkpoint = getattr(args, 'checkpoint', None)
    check_keys(cfg, testing=checkpoint is not None)
    _check_runner(cfg)
    cfg.launcher = args.launcher
    # Priority: command line, then the file's work_dir, then the file's name.
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join('./work_dirs', osp.splitext(osp.basename(args.config))[0])
    _merge_training(cfg, args)
    _set_dataloaders(cfg, args)
    found = fill_custom_config(cfg, options, _num_processes(args.launcher), checkpoint)
    if found and os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0')) == '0':
        print(found, flush=True)
    if checkpoint is None:
        _warn_of_schedule(cfg)
    if args.amp and not hasattr(args, 'checkpoint'):
        enable_amp(cfg)
    adapt_to_device(cfg)
    return cfg


def build_runner(cfg: Config, resume: Optional[str] = None) -> Runner:
    """Build the runner of a config.

    Args:
        cfg (Config): From :func:`prepare_config`.
        resume (str, optional): Checkpoint to resume from, or ``'auto'`` for the newest one of
            the work directory. It is not written into the config there: who tests or trains
            with that one again resumes nothing. Defaults to None, as the config says.

    Returns:
        Runner: Its runner.

    Raises:
        UserError: If a part of the config can't be built, or parts don't fit
            together.
    """
    check_parts(cfg)
    try:
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    except ValueError as error:
        raise UserError(user_message(error) or f'config: {error}') from error
    if resume is not None and not (resume == 'auto' and _starts_with_weights(runner)):
        runner._resume, runner._load_from = True, None if resume == 'auto' else resume
    return runner


def _starts_with_weights(runner: Runner) -> bool:
    """Whether there is nothing to resume from yet but ``load_from``, which mmengine would forget.

    ``SafeCheckpointHook`` sees to it itself, and knows best where its checkpoints are.
    """
    return bool(runner._load_from) and not any(
        isinstance(hook, SafeCheckpointHook) for hook in runner.hooks
    ) and find_latest_checkpoint(runner.work_dir) is None


def _merge_training(cfg: Config, args: argparse.Namespace) -> None:
    """Merge what only ``tools/train.py`` has."""
    if getattr(args, 'no_validate', False):
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    if getattr(args, 'auto_scale_lr', False):
        if not cfg.get('auto_scale_lr'):
            raise UserError(
                '--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in the config.')
        cfg.auto_scale_lr.enable = True
    if getattr(args, 'speedup', None) is not None:
        hooks = [hook for hook in cfg.get('custom_hooks') or []
                 if str(hook.get('type')).split('.')[-1] == 'AutoProgHook']
        if not hooks:
            raise UserError(
                '--speedup is a setting of AutoProgHook, which custom_hooks of the config does '
                "not have. dict(type='AutoProgHook', num_stages=1) is the baseline.")
        hooks[0].speedup = args.speedup


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
        none_there = cfg[name].get('num_workers', 0) == 0 and 'persistent_workers' in cfg[name]
        if getattr(args, 'no_persistent_workers', False) or none_there:
            cfg[name].persistent_workers = False


def _merge_options(cfg: Config, options: Mapping[str, object]) -> None:
    """Merge ``--cfg-options``."""
    if not options:
        return
    check_options(cfg, options, for_folders=has_own_datasets(cfg))
    try:
        cfg.merge_from_dict(as_whole(cfg, options))
        if any(key.split('.')[0] == 'custom_imports' for key in options) and cfg.custom_imports:
            import_modules_from_strings(**cfg.custom_imports)  # the file's are imported already
    except Exception as error:  # of the imports, or of what mmengine cannot merge
        raise UserError(f'--cfg-options: {one_line(first_cause(error))}.') from error


def _check_runner(cfg: Config) -> None:
    """Refuse runners that know nothing of growth."""
    kind = cfg.get('runner_type') or 'Runner'
    runner = RUNNERS.module_dict.get(kind)
    if runner is None or not issubclass(runner, Runner) or cfg.get('strategy') is not None:
        raise UserError(
            f'runner_type ({kind!r}) must be a Runner, and strategy must not be set: what '
            'DeepSpeed and FSDP do to a model knows nothing of growth. Leave both out; several '
            'GPUs are used all the same, by tools/dist_train.sh.')


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
