# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What the command-line tools share: from arguments to a config that can run here."""
import argparse
import logging
import os
import os.path as osp
import subprocess
import tempfile
import warnings
from datetime import timedelta
from glob import glob
from typing import Sequence

import torch.distributed
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.config.utils import ConfigParsingError
from mmengine.device import get_device
from mmengine.logging import print_log
from mmpretrain.datasets import CustomDataset
from mmpretrain.registry import DATASETS

from ..utils.errors import UserError
from .errors import SHOW_TRACEBACK
from .own_data import DATALOADERS, fill_custom_config, leaf_datasets

AMP_TYPES = {
    'OptimWrapper': 'AmpOptimWrapper',
    'MoGrowOptimWrapper': 'AmpMoGrowOptimWrapper',
}
_TRIED_BYTES = 4096
_FALLING = ('CosineAnnealingLR', 'PolyLR')


class OptionsAction(DictAction):
    """mmengine's action for key=value, which has no words for what isn't."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        for value in values:
            if '=' not in value:
                parser.error(f'{option_string} takes key=value, but got {value!r}.')
        super().__call__(parser, namespace, values, option_string)


def parse_with_common(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line, with the options that all tools have added.

    Args:
        parser (ArgumentParser): With a tool's own arguments.

    Returns:
        Namespace: All arguments.
    """
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=OptionsAction,
        help='override settings of the config, such as train_cfg.max_epochs=10 or '
        'custom_hooks.0.search.epochs=1; lists as key="[a,b]" or key=a,b')
    parser.add_argument('--amp', action='store_true', help='enable automatic mixed precision')
    parser.add_argument(
        '--no-pin-memory',
        action='store_true',
        help='disable the pin_memory option in dataloaders')
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='job launcher')
    # torch.distributed.launch passes this.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    parser.epilog = (
        f'A mistake in config or data is told in a sentence; with {SHOW_TRACEBACK}=1 in the '
        'environment, with its stack trace.')
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def read_config(path: str) -> Config:
    """Read a config file.

    Args:
        path (str): The file.

    Returns:
        Config: The config.

    Raises:
        ValueError: If it, or one of its bases, is missing or can't be parsed.
    """
    if not osp.isfile(path):
        raise UserError(f'config: there is no file {path!r}.')
    try:
        return Config.fromfile(path)
    except (OSError, SyntaxError, ConfigParsingError) as error:
        raise UserError(f'config: {path!r} cannot be read: {error}') from error


def prepare_config(cfg: Config, args: argparse.Namespace) -> Config:
    """Merge the command line into a config and adapt it to this machine.

    Args:
        cfg (Config): The config as read from its file; changed in place.
        args (Namespace): Of ``tools/train.py`` or ``tools/test.py``.

    Returns:
        Config: ``cfg``.
    """
    cfg.launcher = args.launcher
    # Priority: command line, then the file's work_dir, then the file's name.
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join('./work_dirs', osp.splitext(osp.basename(args.config))[0])

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

    if args.cfg_options is not None:
        for key in args.cfg_options:
            if key.split('.')[0] not in cfg:
                warnings.warn(
                    f'--cfg-options {key}: the config has no key "{key.split(".")[0]}" yet. It is '
                    'added; check its spelling.',
                    stacklevel=2)
        cfg.merge_from_dict(args.cfg_options)
        for name in DATALOADERS:  # which may now have no workers
            if cfg.get(name) is not None and cfg[name].get('num_workers', 0) == 0:
                cfg[name].persistent_workers = False

    checkpoint = getattr(args, 'checkpoint', None)
    found = fill_custom_config(
        cfg, args.cfg_options or {}, _num_processes(args.launcher), checkpoint)
    if found and os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0')) == '0':
        print(found, flush=True)
    if checkpoint is None:
        _warn_of_schedule(cfg)

    if args.amp and not hasattr(args, 'checkpoint'):
        _enable_amp(cfg)
    device = get_device()
    if device in ('cpu', 'mps'):  # where mmengine has no mixed precision
        _fall_back(cfg, device)
    return cfg


def _num_processes(launcher: str) -> int:
    """How many processes train, as the launcher says, before they know each other."""
    name = dict(pytorch='WORLD_SIZE', slurm='SLURM_NTASKS', mpi='OMPI_COMM_WORLD_SIZE')
    return int(os.environ.get(name.get(launcher, ''), 1))


def _warn_of_schedule(cfg: Config) -> None:
    """Warn of a learning rate that falls for other epochs than there are."""
    max_epochs = (cfg.get('train_cfg') or {}).get('max_epochs')
    schedulers = cfg.get('param_scheduler')
    for i, scheduler in enumerate(schedulers if isinstance(schedulers, list) else []):
        end = scheduler.get('end')
        if max_epochs is not None and end not in (None, max_epochs) and \
                scheduler.get('by_epoch', True) and scheduler.get('type') in _FALLING:
            print_log(
                f'train_cfg.max_epochs is {max_epochs}, but the learning rate falls until epoch '
                f'{end}. Set param_scheduler.{i}.end={max_epochs}, too, if that is not meant.',
                'current', logging.WARNING)


def _enable_amp(cfg: Config) -> None:
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


def _fall_back(cfg: Config, device: str) -> None:
    """Replace what this device cannot do, with a warning each."""

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
    if device == 'cpu' and cfg.launcher == 'mpi':
        raise UserError(
            '--launcher mpi needs GPUs; on CPUs use --launcher pytorch, as tools/dist_train.sh '
            'does, or --launcher slurm.')
    if device == 'cpu' and cfg.launcher != 'none' and not torch.distributed.is_initialized():
        # mmengine's own launchers would ask CUDA for a device.
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


def check_work_dir(path: str) -> None:
    """Raise a ValueError unless files can be written into a folder, which may be made.

    Args:
        path (str): The work directory.

    Raises:
        ValueError: Names the folder and the reason.
    """
    try:
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(bytes(_TRIED_BYTES))
    except OSError as error:
        raise UserError(
            f'--work-dir: nothing can be written into {path!r} ({error.strerror}). Choose another '
            'folder, or make room there.') from None


def check_datasets(cfg: Config, dataloaders: Sequence[str]) -> None:
    """Raise a ValueError if a dataset's folder is missing or has no images.

    Args:
        cfg (Config): The config.
        dataloaders (Sequence[str]): Names of the dataloaders to look at.

    Raises:
        ValueError: Names the key, the folder and what is expected there.
    """
    for name in dataloaders:
        if cfg.get(name) is not None:
            for key, dataset in leaf_datasets(f'{name}.dataset', cfg[name].dataset):
                _check_folder(key, dataset)


def _check_folder(key: str, dataset: dict) -> None:
    kind = DATASETS.get(dataset['type']) if isinstance(dataset['type'], str) else dataset['type']
    root = dataset.get('data_root') or ''
    prefix = dataset.get('data_prefix') or dataset.get('split') or ''
    if isinstance(prefix, dict):
        prefix = prefix.get('img_path', '')
    if kind is None or not issubclass(kind, CustomDataset) or '://' in root + prefix:
        return
    fix = (f'Put the data there, or point to it with --cfg-options {key}.data_root=... '
           '(for ImageNet: a folder with train/ and val/, one folder a class in each).')
    if root and not osp.isdir(root):
        raise UserError(f'{key}.data_root: there is no folder {root!r}. {fix}')
    annotations = dataset.get('ann_file')
    if annotations:
        path = osp.join(root, annotations)
        if not osp.isfile(path):
            raise UserError(f'{key}.ann_file: there is no file {path!r}.')
        if osp.getsize(path) == 0:
            raise UserError(f'{key}.ann_file: the file {path!r} is empty.')
    folder = osp.join(root, prefix)
    if annotations and not folder:  # a list of absolute paths
        return
    if not osp.isdir(folder):
        raise UserError(f'{key}: there is no folder {folder!r}. {fix}')
    extensions = dataset.get('extensions') or getattr(kind, 'IMG_EXTENSIONS', None) or (
        '.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif')
    extensions = tuple(extension.lower() for extension in extensions)
    if not any(
            file.lower().endswith(extensions) for _, _, files in os.walk(folder, followlinks=True)
            for file in files):
        raise UserError(
            f'{key}: the folder {folder!r} has no images ({", ".join(extensions)}). {fix}')
