# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Which files below a folder are images: one answer for training and for all tools."""
import os
import os.path as osp
from collections import Counter
from dataclasses import dataclass, field
from typing import Dict, FrozenSet, List, Sequence, Set, Tuple

from ..utils.names import listed

IMAGE_TYPES = ('.bmp', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp')
_Id = Tuple[int, int]


@dataclass
class ImageFiles:
    """The images below a folder.

    Args:
        files (list[str]): Their paths below it, with slashes, in order.
        ignored (Counter): How many files are of other types, by type.
        links (list[str]): Links that are passed over, since they lead to
            nothing or to a folder around them.
        twice (list[tuple[str, str]]): Pairs of folders, or of images, that are
            one by a link.
        folders (set): Identities of the folders, on this machine.
    """

    files: List[str] = field(default_factory=list)
    ignored: Counter = field(default_factory=Counter)
    links: List[str] = field(default_factory=list)
    twice: List[Tuple[str, str]] = field(default_factory=list)
    folders: Set[_Id] = field(default_factory=set)


def find_image_files(root: str, types: Sequence[str] = IMAGE_TYPES) -> ImageFiles:
    """Find all images below a folder.

    An image is a visible file with an ending of ``types``, in any case. Links
    are followed, but not to a folder around them.

    Args:
        root (str): The folder.
        types (Sequence[str]): Endings of images. Defaults to
            :data:`IMAGE_TYPES`.
    """
    found, places = ImageFiles(), {}  # identity of each folder: its path
    linked: Dict[str, str] = {}  # path of an image that is a link: the real one
    _walk(root, '', _around(root), tuple(types), found, places, linked)
    found.folders = set(places)

    real: Dict[str, str] = {}
    parents = {folder: _identity(folder) for folder in set(map(osp.dirname, linked.values()))}
    for path, target in sorted(linked.items()):
        folder, name = osp.split(target)
        if parents[folder] in places and is_image(name, types):
            found.twice.append((_join(places[parents[folder]], name), path))
        elif target in real:
            found.twice.append((real[target], path))
        real[target] = path
    found.files.sort()
    return found


def _walk(root: str, below: str, around: FrozenSet[_Id], types: Tuple[str, ...],
          found: ImageFiles, places: Dict[_Id, str], linked: Dict[str, str]) -> None:
    """Look into a folder.

    Args:
        root (str): Where the search began.
        below (str): Path of the folder below it.
        around (frozenset): Identities of the folders around it, and its own.
        types (tuple[str]): Endings of images.
        found (ImageFiles): Gets what is found.
        places (dict): Gets the folder.
        linked (dict): Gets images that are links.
    """
    own = _identity(osp.join(root, below))
    if own in places:
        found.twice.append((places[own], below))
    places.setdefault(own, below)
    with os.scandir(osp.join(root, below)) as entries:
        visible = sorted((e for e in entries if is_visible(e.name)), key=lambda e: e.name)
    for entry in visible:
        path, is_link = _join(below, entry.name), entry.is_symlink()
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError:  # a link to itself
            is_folder = is_file = False
        if is_folder:
            if is_link and _identity(entry.path) in around:
                found.links.append(path)
                continue
            further = _around(entry.path) if is_link else {_identity(entry.path)}
            _walk(root, path, around | further, types, found, places, linked)
        elif is_link and not is_file:
            found.links.append(path)
        elif is_file and is_image(entry.name, types):
            found.files.append(path)
            if is_link:
                linked[path] = osp.realpath(entry.path)
        else:
            found.ignored[type_of(entry.name)] += 1


def _join(folder: str, name: str) -> str:
    return f'{folder}/{name}' if folder else name


def _identity(path: str) -> _Id:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _around(path: str) -> FrozenSet[_Id]:
    """Identities of a folder and of all that it lies in."""
    path, identities = osp.realpath(path), set()
    while True:
        identities.add(_identity(path))
        if osp.dirname(path) == path:
            return frozenset(identities)
        path = osp.dirname(path)


def is_visible(name: str) -> bool:
    """Whether a file or folder counts, by its name.

    Args:
        name (str): Of the file or folder, without what it lies in.
    """
    return not name.startswith('.') and name != '__MACOSX'  # which zip files of a Mac have


def is_image(name: str, types: Sequence[str] = IMAGE_TYPES) -> bool:
    """Whether a file is an image, by its name.

    Args:
        name (str): Of the file, without its folder.
        types (Sequence[str]): Endings of images. Defaults to
            :data:`IMAGE_TYPES`.
    """
    return is_visible(name) and name.lower().endswith(tuple(types))


def type_of(name: str) -> str:
    """The ending of a file that is no image, for messages."""
    return osp.splitext(name)[1].lower() or 'without a type'


def subfolders(folder: str) -> List[str]:
    """Names of the visible folders in a folder, in order.

    Args:
        folder (str): The folder.
    """
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries
                      if entry.is_dir() and is_visible(entry.name))


def has_images(folder: str) -> bool:
    """Whether there is an image below a folder.

    Args:
        folder (str): The folder.
    """
    seen = set()
    for path, folders, names in os.walk(folder, followlinks=True):
        identity = _identity(path)
        folders[:] = [] if identity in seen else filter(is_visible, folders)
        seen.add(identity)
        if any(map(is_image, names)):
            return True
    return False


def describe_passed_over(ignored: Counter, links: List[str]) -> str:
    """What below a folder is not used, in words; empty for nothing.

    Args:
        ignored (Counter): Of :class:`ImageFiles`.
        links (list[str]): Of :class:`ImageFiles`.
    """
    texts = []
    if ignored:
        types = ', '.join(f'{count} {kind}' for kind, count in sorted(ignored.items()))
        texts.append(f'{sum(ignored.values())} files of other types ({types})')
    if links:
        texts.append(f'{len(links)} links to nothing, or to a folder around them '
                     f'({listed(links)})')
    return ' and '.join(texts)
