# Copyright (c) the autoprog_mm authors. All rights reserved.
"""The images of a folder of class folders, and which of them are held out."""
import hashlib
import os
import os.path as osp
from collections import Counter
from dataclasses import dataclass, field
from typing import Dict, List, Optional, Sequence, Tuple

from ..utils.checks import check_int, check_number
from ..utils.errors import UserError

IMAGE_TYPES = ('.bmp', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp')
# What the folders of a split may be called, in any case; the first that is there counts.
SPLITS = dict(
    train=('train', 'training'),
    val=('val', 'valid', 'validation', 'test'),
    test=('test', 'val', 'valid', 'validation'))
_SPLIT_NAMES = {name for names in SPLITS.values() for name in names}
_LISTED = 5  # names, in a message
_EXPECTED = ('Expected is a folder of one folder a class, or one with train/ and val/ of which '
             'each has one folder a class.')


@dataclass
class ClassImages:
    """The images of a split by class.

    Args:
        folder (str): Folder of the class folders.
        share (float): Which share of a folder that training and validation
            have in common is held out for validation; 0 where each has its own.
        files (dict[str, list[str]]): Paths below ``folder`` of each class,
            with slashes; classes and paths in order.
        ignored (Counter): How many files are no images, by type.
        loose (int): How many images lie beside the class folders.
    """

    folder: str
    share: float = 0.
    files: Dict[str, List[str]] = field(default_factory=dict)
    ignored: Counter = field(default_factory=Counter)
    loose: int = 0

    def __len__(self) -> int:
        return sum(map(len, self.files.values()))

    @property
    def paths(self) -> List[str]:
        """list[str]: All images, class by class."""
        return [osp.join(self.folder, file) for files in self.files.values() for file in files]


def find_images(root: str,
                split: str,
                val_share: float = 0.1,
                max_per_class: Optional[int] = None) -> ClassImages:
    """Find the images of a split in a folder.

    The folder has either ``train/`` and ``val/`` (or ``valid/``,
    ``validation/``, ``test/``), with class folders in each, or the class
    folders themselves. Where there is none to validate with, a share of each
    class is held out for it. Which images that are is a function of their
    class and name, so it is the same on every machine, and an image that is
    added moves at most one other. Images may lie in folders in class folders.
    What is hidden (begins with a dot) is passed over.

    Args:
        root (str): The folder.
        split (str): 'train', 'val' or 'test'; where one of the last two is
            missing, it is the other.
        val_share (float): Share of each class to hold out, in (0, 1]; at least
            one image of a class is held out, and with less than 1 at least one
            isn't. Defaults to 0.1.
        max_per_class (int, optional): How many images of a class are used at
            most; which, is a function of their names, too. Defaults to None,
            all.

    Returns:
        ClassImages: The images.

    Raises:
        UserError: For a folder that isn't like this; says what is wrong.
    """
    if split not in SPLITS:
        raise UserError(f'split must be one of {sorted(SPLITS)}, but got {split!r}.')
    root = osp.expanduser(root)
    if not osp.isdir(root):
        what = f'{root!r} is a file, not a folder' if osp.isfile(root) else \
            f'there is no folder {root!r}'
        raise UserError(f'data_root: {what}. {_EXPECTED}')
    folder, shared = _find_folder(root, split)
    images = _scan(folder)
    if shared:
        _hold_out(images, split, val_share)
    if max_per_class is not None:
        _limit(images, max_per_class)
    return images


def check_known(images: ClassImages, classes: Sequence[str]) -> None:
    """Check that all classes of a folder are among the known ones.

    Args:
        images (ClassImages): What the folder has.
        classes (Sequence[str]): The known ones.

    Raises:
        UserError: If one isn't; names it.
    """
    unknown = [name for name in images.files if name not in set(classes)]
    if unknown:
        raise UserError(
            f'data_root: {images.folder!r} has folders of classes that the model is not trained '
            f'for: {listed(unknown)}. It knows {listed(classes)}.')


def listed(names: Sequence[str]) -> str:
    """The first few of some names, and how many more there are."""
    text = ', '.join(map(repr, names[:_LISTED]))
    return text if len(names) <= _LISTED else f'{text} and {len(names) - _LISTED} more'


# ------------------------------------------------------------------ the layout


def subfolders(folder: str) -> List[str]:
    """Names of the visible folders in a folder, in order.

    Args:
        folder (str): The folder.
    """
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries
                      if entry.is_dir() and _is_visible(entry.name))


def _is_visible(name: str) -> bool:
    return not name.startswith('.') and name != '__MACOSX'  # which zip files of a Mac have


def _split_folders(root: str) -> Dict[str, str]:
    """Folders of splits with folders in them, by their names in lower case."""
    return {
        name.lower(): osp.join(root, name) for name in subfolders(root)
        if name.lower() in _SPLIT_NAMES and subfolders(osp.join(root, name))
    }


def _find(splits: Dict[str, str], split: str) -> Optional[str]:
    return next((splits[name] for name in SPLITS[split] if name in splits), None)


def _find_folder(root: str, split: str) -> Tuple[str, bool]:
    """Where a split's class folders are, and whether training and validation share them."""
    splits, names = _split_folders(root), subfolders(root)
    train, found = _find(splits, 'train'), _find(splits, split)
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
        images = sum(_is_image(name) for name in os.listdir(folder))
        if images and not subfolders(folder):
            raise UserError(
                f'data_root: {folder!r} has {images} images directly inside, but no class '
                'folders, so what they show is not known. Put the images of each class into a '
                'folder with the name of the class.')
    if any(subfolders(osp.join(root, name)) for name in names):
        raise UserError(
            f'data_root: {root!r} has the folders {listed(names)}, but none to train with. Call '
            'the one with the images to train with train/.')
    raise UserError(f'data_root: the folder {root!r} has no class folders. {_EXPECTED}')


# ------------------------------------------------------------------ the images


def _is_image(name: str) -> bool:
    return _is_visible(name) and name.lower().endswith(IMAGE_TYPES)


def _scan(folder: str) -> ClassImages:
    images = ClassImages(folder)
    for name in os.listdir(folder):
        if osp.isfile(osp.join(folder, name)) and _is_visible(name):
            if _is_image(name):
                images.loose += 1
            else:
                images.ignored[_type(name)] += 1
    for name in subfolders(folder):
        images.files[name] = _scan_class(folder, name, images.ignored)
    empty = [name for name, files in images.files.items() if not files]
    if empty:
        what = 'folder has' if len(empty) == 1 else 'folders have'
        raise UserError(
            f'data_root: in {folder!r}, the class {what} no images ({", ".join(IMAGE_TYPES)}): '
            f'{listed(empty)}. Put images there, or delete what is no class.')
    return images


def _scan_class(folder: str, name: str, ignored: Counter) -> List[str]:
    files = []
    for path, folders, names in os.walk(osp.join(folder, name), followlinks=True):
        folders[:] = filter(_is_visible, folders)
        below = osp.relpath(path, folder).replace(os.sep, '/')
        for file in filter(_is_visible, names):
            if _is_image(file):
                files.append(f'{below}/{file}')
            else:
                ignored[_type(file)] += 1
    return sorted(files)


def _type(name: str) -> str:
    return osp.splitext(name)[1].lower() or 'without a type'


def _hold_out(images: ClassImages, split: str, share: float) -> None:
    """Keep of each class what belongs to a split."""
    check_number('val_share', share, 0, 1, above=True, below=split != 'test')
    images.share = share
    single = [name for name, files in images.files.items() if len(files) == 1]
    if single and share < 1:
        raise UserError(
            f'data_root: in {images.folder!r} is one image only of {listed(single)}. A class needs '
            'at least two, one to train and one to validate with. Add images, or take its folder '
            'away.')
    if share == 1:
        return
    for name, files in images.files.items():
        size = min(max(1, round(share * len(files))), len(files) - 1)
        held_out = set(sorted(files, key=_digest)[:size])
        images.files[name] = [file for file in files if (file in held_out) == (split != 'train')]


def _limit(images: ClassImages, most: int) -> None:
    """Keep so many images of each class."""
    check_int('max_per_class', most, optional=True)
    for name, files in images.files.items():
        images.files[name] = sorted(sorted(files, key=_digest)[:most])


def _digest(file: str) -> bytes:
    return hashlib.sha256(file.encode('utf-8', 'surrogateescape')).digest()
