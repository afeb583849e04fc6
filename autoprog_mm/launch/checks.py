# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Folders and files that a run needs, looked at before anything is built."""
import os
import os.path as osp
import tempfile
from typing import Optional, Sequence

from mmengine.config import Config
from mmengine.model import PretrainedInit
from mmpretrain.datasets import CustomDataset
from mmpretrain.registry import DATASETS

from ..engine.checkpoint import check_resumable
from ..models import read_weights
from ..utils.errors import UserError
from .dataloaders import leaf_datasets

_TRIED_BYTES = 4096


def check_work_dir(path: str) -> None:
    """Raise an error unless files can be written into a folder, which may be made.

    Args:
        path (str): The work directory.

    Raises:
        UserError: Names the folder and the reason.
    """
    try:
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(bytes(_TRIED_BYTES))
    except OSError as error:
        raise UserError(
            f'--work-dir: nothing can be written into {path!r} ({error.strerror}). Choose another '
            'folder, or make room there.') from None


def check_checkpoint(key: str, path: Optional[str], resumes: bool = False,
                     prefix: str = '') -> None:
    """Raise an error if a checkpoint that is to be loaded is missing or can't be.

    Args:
        key (str): Where it is set.
        path (str | None): The file, or an address, which is not looked at.
        resumes (bool): Whether it must have all that a run is resumed from.
            Defaults to False, weights are enough.
        prefix (str): What names of weights are to begin with. Defaults to any.

    Raises:
        UserError: Names the key and the file.
    """
    if not path or '://' in path:
        return
    try:
        if resumes:
            check_resumable(path)
            return
        weights = read_weights(path, mmap=True)['state_dict']
    except ValueError as error:
        raise UserError(f'{key}: {error}') from None
    if not any(name.startswith(prefix) for name in weights):
        raise UserError(f'{key}: no weight in {path!r} has a name that begins with {prefix!r}; the '
                        f'first one is {next(iter(weights))!r}.')


def check_init_cfg(key: str, part: object) -> None:
    """Raise an error if a checkpoint that ``init_cfg`` of a part names can't be loaded.

    Args:
        key (str): Where the part is set.
        part (object): A part of a config, which is searched.

    Raises:
        UserError: Names the key and the file.
    """
    if isinstance(part, dict):
        if part.get('type') in ('Pretrained', PretrainedInit):
            prefix = part.get('prefix') or ''
            check_checkpoint(f'{key}.checkpoint', part.get('checkpoint'),
                             prefix=prefix and f'{prefix.rstrip(".")}.')
        for name, value in part.items():
            check_init_cfg(f'{key}.{name}', value)
    elif isinstance(part, (list, tuple)):
        for i, value in enumerate(part):
            check_init_cfg(f'{key}.{i}', value)


def check_datasets(cfg: Config, dataloaders: Sequence[str]) -> None:
    """Raise an error if a dataset's folder is missing or has no images.

    Args:
        cfg (Config): The config.
        dataloaders (Sequence[str]): Names of the dataloaders to look at.

    Raises:
        UserError: Names the key, the folder and what is expected there.
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
