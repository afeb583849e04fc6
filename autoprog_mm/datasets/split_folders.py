# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Where in a folder the class folders are: of each split, or of all."""
import os
import os.path as osp
from typing import Dict, List, Optional, Tuple

from ..utils.errors import UserError
from ..utils.names import listed
from .image_files import has_images, is_image, subfolders

# What the folders of a split may be called, in any case; the first that is there counts.
SPLITS = dict(
    train=('train', 'training'),
    val=('val', 'valid', 'validation', 'test'),
    test=('test', 'val', 'valid', 'validation'))
_SPLIT_NAMES = {name for names in SPLITS.values() for name in names}
EXPECTED = ('Expected is a folder of one folder a class, or one with train/ and val/ of which '
             'each has one folder a class.')


def _split_folders(root: str) -> Dict[str, str]:
    """Folders of splits with folders in them, by their names in lower case."""
    found: Dict[str, str] = {}
    for name in subfolders(root):
        if name.lower() in _SPLIT_NAMES and subfolders(osp.join(root, name)):
            path = found.setdefault(name.lower(), osp.join(root, name))
            if path != osp.join(root, name):
                raise UserError(
                    f'data_root: {root!r} has the folders {osp.basename(path)!r} and {name!r}, of '
                    'which only one can be used. Move the other one away.')
    return found


def unused_folders(root: str) -> List[str]:
    """Folders with images in a folder of splits, which no split uses.

    Args:
        root (str): The folder.
    """
    splits = _split_folders(root)
    used = {_find(splits, split) for split in SPLITS}
    return [name for name in subfolders(root)
            if osp.join(root, name) not in used and has_images(osp.join(root, name))]


def _find(splits: Dict[str, str], split: str) -> Optional[str]:
    return next((splits[name] for name in SPLITS[split] if name in splits), None)


def find_folder(root: str, split: str) -> Tuple[str, bool]:
    """Where a split's class folders are, and whether training and validation share them.

    Args:
        root (str): A folder of class folders, or of splits.
        split (str): One of :data:`SPLITS`.

    Raises:
        UserError: If there are none; says what is wrong.
    """
    splits, names = _split_folders(root), subfolders(root)
    train, found = _find(splits, 'train'), _find(splits, split)
    if len(splits) == 1:
        _refuse_class_like_split(root, *splits.values())
    if found is not None and (train is not None or split == 'test'):
        return found, split == 'train' and _find(splits, 'val') is None
    if train is not None:
        return train, True

    parent, name = osp.split(osp.abspath(root))
    if name.lower() in _SPLIT_NAMES and _find(_split_folders(parent), 'train') is not None:
        raise UserError(
            f'data_root: {root!r} is one split of the images alone. Set data_root={parent}, the '
            'folder around it.')
    if not names or {name.lower() for name in names} <= _SPLIT_NAMES:
        _refuse_without_classes(root, names)
    for name in names:
        if _find(_split_folders(osp.join(root, name)), 'train') is not None:
            raise UserError(
                f'data_root: {root!r} is a level too high: train/ and val/ are in '
                f'{osp.join(root, name)!r}. Set data_root={osp.join(root, name)}.')
    return root, True


def _refuse_without_classes(root: str, names: List[str]) -> None:
    """Raise the error for a folder in which, or in whose splits, are no class folders."""
    for folder in [root] + [osp.join(root, name) for name in names]:
        images = sum(is_image(name) for name in os.listdir(folder))
        if images and not subfolders(folder):
            raise UserError(
                f'data_root: {folder!r} has {images} images directly inside, but no class '
                'folders, so what they show is not known. Put the images of each class into a '
                'folder with the name of the class.')
    if any(subfolders(osp.join(root, name)) for name in names):
        raise UserError(
            f'data_root: {root!r} has the folders {listed(names)}, but none to train with. Call '
            'the one with the images to train with train/.')
    raise UserError(f'data_root: the folder {root!r} has no class folders. {EXPECTED}')


def _refuse_class_like_split(root: str, split: str) -> None:
    """Raise the error for one folder of a split beside others that look like classes."""
    others = [name for name in unused_folders(root) if name.lower() not in _SPLIT_NAMES]
    if others:
        raise UserError(
            f'data_root: {root!r} has {osp.basename(split)!r} with folders in it, and beside it '
            f'folders with images, {listed(others)}, so it is not clear what the classes are. If '
            f'{osp.basename(split)!r} is a class, take its images out of the folders in it; if '
            'not, move the other folders away.')
