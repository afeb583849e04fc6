# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What a config may not ask of this machine, and what takes its place."""
import logging
import os
import subprocess
from datetime import timedelta
from typing import Callable

import torch.distributed
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log

from ..utils.errors import UserError
from .dataloaders import DATALOADERS

AMP_TYPES = {
    'OptimWrapper': 'AmpOptimWrapper',
    'MoGrowOptimWrapper': 'AmpMoGrowOptimWrapper',
}


def enable_amp(cfg: Config) -> None:
    """Train with mixed precision.

    Args:
        cfg (Config): Changed in place; one without ``optim_wrapper`` stays.

    Raises:
        UserError: If its ``optim_wrapper`` has no counterpart for that.
    """
    wrapper = cfg.get('optim_wrapper')
    if wrapper is None:
        return
    kind = wrapper.get('type', 'OptimWrapper')
    if kind in AMP_TYPES.values():
        return
    if kind not in AMP_TYPES:
        raise UserError(
            f'--amp needs optim_wrapper.type to be one of {sorted(AMP_TYPES)}, but got {kind!r}.')
    wrapper.type = AMP_TYPES[kind]
    wrapper.setdefault('loss_scale', 'dynamic')


def adapt_to_device(cfg: Config) -> None:
    """Replace what the device of this process can't do, with a warning each.

    On a CPU, processes of a launcher are connected here, through gloo.

    Args:
        cfg (Config): Changed in place.

    Raises:
        UserError: For a launcher that can't work here.
    """
    device = get_device()
    if device not in ('cpu', 'mps'):  # where mmengine has no mixed precision
        return

    def warn(what: str) -> None:
        print_log(f'On the device {device!r}: {what}.', 'current', logging.WARNING)

    wrapper = cfg.get('optim_wrapper')
    full_precision = {amp: full for full, amp in AMP_TYPES.items()}
    amp = (wrapper or {}).get('type', '')
    scope, _, kind = amp.rpartition('.') if isinstance(amp, str) else ('', '', '')
    if kind in full_precision:
        wrapper.type = f'{scope}.{full_precision[kind]}' if scope else full_precision[kind]
        for key in ('dtype', 'loss_scale', 'use_fsdp'):
            wrapper.pop(key, None)
        warn(f'training in float32 with {wrapper.type} instead of {amp}')
    if cfg.get('test_cfg') and cfg.test_cfg.pop('fp16', False):
        warn('testing in float32')
    if cfg.get('sync_bn') is not None:
        cfg.sync_bn = None
        if cfg.launcher != 'none':
            warn('BatchNorm is not synchronised')
    for name in DATALOADERS:
        if cfg.get(name) is not None:
            cfg[name].pin_memory = False
    if device == 'cpu' and cfg.launcher != 'none':
        _connect(cfg, warn)


def _connect(cfg: Config, warn: Callable[[str], None]) -> None:
    """Connect the processes of a launcher, for which mmengine's own would need CUDA."""
    if cfg.launcher == 'mpi':
        raise UserError(
            '--launcher mpi needs GPUs; on CPUs use --launcher pytorch, as tools/dist_train.sh '
            'does, or --launcher slurm.')
    if torch.distributed.is_initialized():
        return
    if cfg.launcher == 'slurm':
        _set_environment_of_slurm()
    timeout = cfg.get('env_cfg', {}).get('dist_cfg', {}).get('timeout')
    torch.distributed.init_process_group(
        backend='gloo', timeout=timedelta(seconds=timeout) if timeout else None)
    os.environ.setdefault('LOCAL_RANK', '0')
    warn(f'rank {torch.distributed.get_rank()} of {torch.distributed.get_world_size()} '
         'communicates through gloo')


def _set_environment_of_slurm() -> None:
    """Tell torch what Slurm says of this process and the others."""
    names = dict(RANK='SLURM_PROCID', WORLD_SIZE='SLURM_NTASKS', LOCAL_RANK='SLURM_LOCALID')
    missing = [name for name in (*names.values(), 'SLURM_NODELIST') if name not in os.environ]
    if missing:
        raise UserError(
            f'--launcher slurm needs {", ".join(missing)} in the environment: start the processes '
            'with srun, as tools/slurm_train.sh does.')
    os.environ.update({name: os.environ[slurms] for name, slurms in names.items()})
    if 'MASTER_ADDR' not in os.environ:  # the first node, by the name that it has for the others
        hosts = subprocess.run(
            ['scontrol', 'show', 'hostnames', os.environ['SLURM_NODELIST']], check=True,
            stdout=subprocess.PIPE, text=True).stdout.split()
        os.environ['MASTER_ADDR'] = hosts[0]
    os.environ.setdefault('MASTER_PORT', '29500')
