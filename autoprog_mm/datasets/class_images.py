# Copyright (c) the autoprog_mm authors. All rights reserved.
"""The images of a folder of class folders, and which of them are held out."""
import hashlib
import os.path as osp
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from typing import Dict, List, Sequence, Set, Tuple, Union

from ..utils.checks import check_int, check_number
from ..utils.errors import UserError
from ..utils.names import listed
from .image_files import IMAGE_TYPES, ImageFiles, find_image_files, subfolders
from .split_folders import EXPECTED, SPLITS, find_folder, unused_folders


@dataclass
class ClassImages:
    """The images of a split by class.

    Args:
        folder (str): Folder of the class folders.
        share (float): Which share of a folder that training and validation
            have in common is held out for validation; 0 where each has its own.
        files (dict[str, list[str]]): Paths below ``folder`` of each class,
            with slashes; classes and paths in order.
        ignored (Counter): How many files are of other types, by type.
        links (list[str]): Links that are passed over; see :class:`ImageFiles`.
        loose (int): How many images lie beside the class folders.
        beside (list[str]): Folders with images beside those of the splits.
        folders (set): Identities of all folders with images.
    """

    folder: str
    share: float = 0.
    files: Dict[str, List[str]] = field(default_factory=dict)
    ignored: Counter = field(default_factory=Counter)
    links: List[str] = field(default_factory=list)
    loose: int = 0
    beside: List[str] = field(default_factory=list)
    folders: Set[tuple] = field(default_factory=set)

    def __len__(self) -> int:
        return sum(map(len, self.files.values()))

    @property
    def paths(self) -> List[str]:
        """list[str]: All images, class by class."""
        return [osp.join(self.folder, file) for files in self.files.values() for file in files]


def find_images(root: str,
                split: str,
                val_share: float = 0.1,
                max_per_class: Union[int, Sequence[int], None] = None) -> ClassImages:
    """Find the images of a split in a folder.

    The folder has either ``train/`` and ``val/`` (or ``valid/``,
    ``validation/``, ``test/``), with class folders in each, or the class
    folders themselves. Where there is none to validate with, a share of each
    class is held out for it. Which images that are is a function of their
    class and name, so it is the same on every machine, and an image that is
    added moves at most one other. Images may lie in folders in class folders.
    What is hidden (begins with a dot) is passed over, as are links to a folder
    around them. Classes have the names of their folders in Unicode's composed
    form (NFC), in order of their characters: '10' is before '2'.

    Args:
        root (str): The folder.
        split (str): 'train', 'val' or 'test'; where one of the last two is
            missing, it is the other.
        val_share (float): Share of each class to hold out, in (0, 1]; at least
            one image of a class is held out, and with less than 1 at least one
            isn't. Defaults to 0.1.
        max_per_class (int | Sequence[int], optional): How many images of a
            class are used at most; which, is a function of their names, too.
            A pair (begin, end) leaves out the ``begin`` ones that come first:
            ``500`` and ``(500, 1500)`` have no image in common. Defaults to
            None, all.

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
        raise UserError(f'data_root: {what}. {EXPECTED}')
    folder, shared = find_folder(root, split)
    found = find_image_files(folder)
    images = _by_class(folder, found)
    _check_once(images, found.twice, shared)
    if not osp.samefile(folder, root):
        images.beside = unused_folders(root)
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


def class_name(folder: str) -> str:
    """The name of the class in a folder.

    A Mac writes letters with accents as two characters, others as one.

    Args:
        folder (str): Name of the folder.
    """
    return unicodedata.normalize('NFC', folder)


def _by_class(folder: str, found: ImageFiles) -> ClassImages:
    images = ClassImages(
        folder, ignored=found.ignored, links=found.links, folders=found.folders)
    names: Dict[str, str] = {}
    for name in subfolders(folder):
        other = names.setdefault(class_name(name), name)
        if other != name:
            raise UserError(
                f'data_root: {folder!r} has two folders of the class {class_name(name)!r}, '
                f'{ascii(other)} and {ascii(name)}. Put their images into one.')
        try:
            name.encode()
        except UnicodeEncodeError:
            raise UserError(f'data_root: the name of the class folder {name!r} in {folder!r} is '
                            'not UTF-8. Rename it.') from None
    images.files = {name: [] for name in sorted(names)}
    for file in found.files:
        name, slash, _ = file.partition('/')
        if slash:
            images.files[class_name(name)].append(file)
        else:
            images.loose += 1
    empty = [name for name, files in images.files.items() if not files]
    if empty:
        what = 'folder has' if len(empty) == 1 else 'folders have'
        raise UserError(
            f'data_root: in {folder!r}, the class {what} no images ({", ".join(IMAGE_TYPES)}): '
            f'{listed(empty)}. Put images there, or delete what is no class.')
    return images


def _check_once(images: ClassImages, twice: Sequence[Tuple[str, str]], shared: bool) -> None:
    """Check that no image has two labels, or is trained with and validated with."""
    for one, other in twice:
        labels = [class_name(path.partition('/')[0]) for path in (one, other)]
        where = f'data_root: in {images.folder!r}, {one!r} and {other!r} are one by a link'
        if labels[0] != labels[1]:
            raise UserError(f'{where}, but of two classes. Remove the link.')
        if shared:
            raise UserError(f'{where}, so the same images would be trained with and validated '
                            'with. Remove the link.')


def _hold_out(images: ClassImages, split: str, share: float) -> None:
    """Keep of each class what belongs to a split."""
    try:
        check_number('val_share', share, 0, 1, above=True, below=split != 'test')
    except UserError as error:
        raise UserError(
            f'{error} Set a share such as 0.1, or put the images to validate with into a folder '
            'val/ beside train/.') from None
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


def _limit(images: ClassImages, most: Union[int, Sequence[int]]) -> None:
    """Keep so many images of each class."""
    begin = 0
    if isinstance(most, Sequence):
        if isinstance(most, str) or len(most) != 2:
            raise UserError('max_per_class must be an int, or a pair (begin, end) of ints, but got '
                            f'{most!r}.')
        begin, most = most
        check_int('max_per_class[0]', begin, least=0)
        check_int('max_per_class[1]', most, least=begin + 1)
    else:
        check_int('max_per_class', most, optional=True)
    few = [name for name, files in images.files.items() if len(files) <= begin]
    if few:
        raise UserError(
            f'max_per_class leaves out the first {begin} images of each class, but in '
            f'{images.folder!r} are no more than that of {listed(few)}. Lower its first number.')
    for name, files in images.files.items():
        images.files[name] = sorted(sorted(files, key=_digest)[begin:most])


def _digest(file: str) -> bytes:
    return hashlib.sha256(file.encode('utf-8', 'surrogateescape')).digest()
