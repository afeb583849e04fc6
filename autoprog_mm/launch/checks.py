# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Folders and files that a run needs, looked at before anything is built."""
import logging
import os
import os.path as osp
import tempfile
from typing import Dict, List, Optional, Sequence

from mmengine.config import Config
from mmengine.fileio import list_from_file
from mmengine.logging import print_log
from mmengine.model import PretrainedInit
from mmpretrain.datasets import CustomDataset, ImageNet
from mmpretrain.datasets.custom import find_folders
from mmpretrain.registry import DATASETS

from ..datasets.image_files import IMAGE_TYPES, find_image_files, is_visible
from ..engine.checkpoint import check_resumable
from ..models import read_weights
from ..utils.errors import UserError
from ..utils.names import listed
from .dataloaders import leaf_datasets

_TRIED_BYTES = 4096


class MissingDataError(UserError):
    """Data are not on this machine, without which a run can be planned."""


def check_work_dir(path: str, argument: str = '--work-dir') -> None:
    """Raise an error unless files can be written into a folder, which may be made.

    Args:
        path (str): The work directory.
        argument (str): How the user has given it, for the message.
            Defaults to '--work-dir'.

    Raises:
        UserError: Names the folder and the reason.
    """
    try:
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(bytes(_TRIED_BYTES))
    except OSError as error:
        raise UserError(
            f'{argument}: nothing can be written into {path!r} ({error.strerror}). Choose another '
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
    """Look at the folders and annotation files of mmpretrain's datasets.

    Warns of images that a dataset passes over for their types.

    Args:
        cfg (Config): The config.
        dataloaders (Sequence[str]): Names of the dataloaders to look at.

    Raises:
        MissingDataError: If a folder or a file is missing, or has no images;
            names the key, the folder and what is expected there.
        UserError: For what would get wrong labels: an annotation that can't be
            read, folders that are no classes, or other classes to validate
            with than to train with.
    """
    classes: Dict[str, List[str]] = {}
    for name in dataloaders:
        if cfg.get(name) is not None:
            for key, dataset in leaf_datasets(f'{name}.dataset', cfg[name].dataset):
                found = _check_dataset(key, dataset)
                if found is not None:
                    classes[key] = found
    for key, names in classes.items():
        first = next(iter(classes))
        differing = sorted({*names} ^ {*classes[first]})
        if differing:
            raise UserError(
                f'{key} and {first} have different class folders: {listed(differing)} is in one of '
                'them only, so the labels would not mean the same. Make them the same.')


def _check_dataset(key: str, dataset: dict) -> Optional[List[str]]:
    """Look at a dataset; returns its class folders, if they make the labels."""
    kind = DATASETS.get(dataset['type']) if isinstance(dataset['type'], str) else dataset['type']
    root = dataset.get('data_root') or ''
    if not isinstance(root, str):
        raise UserError(f'{key}.data_root must be the path of one folder, but is {root!r}. Write a '
                        f'path with a comma as {key}.data_root=\'"a,b"\'.')
    prefix = dataset.get('data_prefix') or dataset.get('split') or ''
    if isinstance(prefix, dict):
        prefix = prefix.get('img_path', '')
    if kind is None or not issubclass(kind, CustomDataset) or '://' in root + prefix:
        return None
    fix = (f'Put the data there, or point to it with --cfg-options {key}.data_root=... '
           '(for ImageNet: a folder with train/ and val/, one folder a class in each).')
    if root and not osp.isdir(root):
        raise MissingDataError(f'{key}.data_root: there is no folder {root!r}. {fix}')
    annotations = _annotations(kind, dataset, root)
    if annotations:
        path = osp.join(root, annotations)
        if not osp.isfile(path):
            raise MissingDataError(f'{key}.ann_file: there is no file {path!r}.')
        if osp.getsize(path) == 0:
            raise MissingDataError(f'{key}.ann_file: the file {path!r} is empty.')
        if dataset.get('with_label', True) and not _reads_its_own_way(kind):
            _check_annotations(f'{key}.ann_file', path)
    folder = osp.join(root, prefix)
    if annotations and not folder:  # a list of absolute paths
        return None
    if not osp.isdir(folder):
        raise MissingDataError(f'{key}: there is no folder {folder!r}. {fix}')
    if annotations:
        return None
    extensions = dataset.get('extensions') or getattr(kind, 'IMG_EXTENSIONS', None) or (
        '.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif')
    extensions = tuple(extension.lower() for extension in extensions)
    found = find_image_files(folder, (*IMAGE_TYPES, *extensions))
    used = sum(file.lower().endswith(extensions) for file in found.files)
    if not used:
        raise MissingDataError(
            f'{key}: the folder {folder!r} has no images ({", ".join(extensions)}). {fix}')
    if used < len(found.files):
        more = {osp.splitext(file)[1].lower() for file in found.files}.difference(extensions)
        print_log(
            f'{key}: {kind.__name__} passes over {len(found.files) - used} of '
            f'{len(found.files)} images in {folder!r}, of the types {", ".join(sorted(more))}. Set '
            f'{key}.extensions to have them used.', 'current', logging.WARNING)
    unlabelled = issubclass(kind, ImageNet) and dataset.get('split') == 'test'
    if unlabelled or not dataset.get('with_label', True) or _reads_its_own_way(kind):
        return None
    return _check_class_folders(key, kind, folder, found.links)


def _reads_its_own_way(kind: type) -> bool:
    """Whether a dataset of the user's makes of files and folders what it likes."""
    return any(getattr(kind, name) is not getattr(CustomDataset, name)
               for name in ('load_data_list', '_find_samples'))


def _annotations(kind: type, dataset: dict, root: str) -> Optional[str]:
    """Path of the annotation file below ``data_root``, if there is one."""
    own = osp.join('meta', f'{dataset.get("split")}.txt')
    if dataset.get('ann_file') or not issubclass(kind, ImageNet):
        return dataset.get('ann_file')
    return own if osp.isfile(osp.join(root, own)) else None  # which ImageNet finds itself


def _check_annotations(key: str, path: str) -> None:
    """Check that each line has a file and a label, as mmpretrain reads it."""
    for number, line in enumerate(list_from_file(path), 1):
        *file, label = line.strip().rsplit(' ', 1)
        if not file or not label.isdigit() or line.startswith('\ufeff'):
            raise UserError(
                f'{key}: line {number} of {path!r} must be the path of an image, a space and a '
                f'label of 0 or more, but is {line!r}.')


def _check_class_folders(key: str, kind: type, folder: str, links: Sequence[str]) -> List[str]:
    """Check that all folders are classes, for mmpretrain leaves none out."""
    names, _ = find_folders(folder)
    for name in names:
        if not is_visible(name):
            raise UserError(
                f'{key}: {kind.__name__} takes the folder {osp.join(folder, name)!r} for a class. '
                'Delete it.')
    for link in links:
        if osp.isdir(osp.join(folder, link)):
            raise UserError(
                f'{key}: the link {osp.join(folder, link)!r} leads to a folder around it, so '
                'images would be there many times. Remove it.')
    return names
