# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What a folder of images has: checked, and told in words."""
import os.path as osp
from collections import Counter
from typing import Iterable, List, Optional, Sequence

import cv2
import numpy as np
from PIL import Image

from ..datasets.class_images import ClassImages
from ..datasets.image_files import describe_passed_over, subfolders
from ..utils.errors import UserError
from ..utils.names import listed
from .epoch_samples import EpochSamples


def classes_of(parts: Sequence[ClassImages]) -> List[str]:
    """Names of all classes, in order.

    Args:
        parts (Sequence[ClassImages]): Images of one or several folders.
    """
    return sorted({name for part in parts for name in part.files})


def check_classes(train: Sequence[ClassImages],
                  val: Sequence[ClassImages],
                  known: Optional[Sequence[str]] = None) -> None:
    """Check the classes to train and to validate against each other and the known ones.

    Args:
        train (Sequence[ClassImages]): Images to train with.
        val (Sequence[ClassImages]): Images to validate with; may be none.
        known (Sequence[str], optional): Classes that a config has already.
            Defaults to None.

    Raises:
        UserError: If they differ, or there is one only.
    """
    classes, folder = classes_of(train), train[0].folder
    if len(classes) == 1:
        inside = osp.join(folder, classes[0])
        hint = f' If the classes are the folders in there, set data_root={inside}.' \
            if len(subfolders(inside)) > 1 else ''
        raise UserError(
            f'data_root: {folder!r} has the folder of one class only, {classes[0]!r}, so there is '
            f'nothing to tell apart.{hint}')
    if known is not None and set(known) != set(classes):
        raise UserError(
            f'classes: the config is for {listed(known)}, but {folder!r} has {listed(classes)}. '
            'Set classes=None to take those of the folder.')
    if not val:
        return
    for here, there in ((train, val), (val, train)):
        missing = [name for name in classes_of(here) if name not in classes_of(there)]
        if missing:
            raise UserError(
                f'data_root: {listed(missing)} is in {here[0].folder!r}, but not in '
                f'{there[0].folder!r}. To train and to validate, the same class folders are '
                'needed.')


def shares_folders(train: Sequence[ClassImages], val: Sequence[ClassImages]) -> bool:
    """Whether folders to train and to validate with are the same ones, by links.

    Args:
        train (Sequence[ClassImages]): Images to train with.
        val (Sequence[ClassImages]): Images to validate with.
    """
    return any(one.folders & other.folders for one in train for other in val
               if one.folder != other.folder)


def describe_count(parts: Sequence[ClassImages], samples: EpochSamples, held_out: bool) -> str:
    """How many images there are, how many of a class, and how many samples they make.

    Args:
        parts (Sequence[ClassImages]): Images of one or several folders.
        samples (EpochSamples): What an epoch makes of them.
        held_out (bool): Whether to tell the share, if they were held out.
    """
    of_class: Counter = Counter()
    for part in parts:
        of_class.update({name: len(files) for name, files in part.files.items()})
    text = f'{sum(of_class.values())} images, {_of_each(of_class)}'
    shares = [f'{part.share:g}' for part in parts if 0 < part.share < 1]
    if shares and held_out:
        text += f', held out by val_share={shares[0]}'
    if samples.reason:
        text += f'; {samples.number} samples an epoch'
        text += f', {_of_each(samples.of_class)}' if samples.of_class else ''
        text += f', by {samples.reason}'
    return text


def _of_each(of_class: Counter) -> str:
    fewest, most = min(of_class.values()), max(of_class.values())
    return f'{fewest}{"" if fewest == most else f" to {most}"} of each class'


def describe_ignored(parts: Iterable[ClassImages]) -> str:
    """What lies in folders and is not used.

    Args:
        parts (Iterable[ClassImages]): Images of one or several folders.
    """
    # A folder that is shared by training and validation counts once.
    folders = {part.folder: part for part in parts}.values()
    texts = [describe_passed_over(
        sum((part.ignored for part in folders), Counter()),
        [osp.join(part.folder, link) for part in folders for link in part.links])]
    loose = sum(part.loose for part in folders)
    if loose:
        texts.append(f'{loose} images beside the class folders')
    beside = sorted({name for part in folders for name in part.beside})
    if beside:
        texts.append(f'the folders {listed(beside)} with images, beside those of the splits')
    return ' and '.join(filter(None, texts)) or 'nothing'


def short_side(path: str) -> Optional[int]:
    """Pixels of the short side of an image, from its header; None if it can't be read.

    Args:
        path (str): Of the file.
    """
    try:
        path.encode()
        with Image.open(path) as image:
            # What OpenCV can't decode, such as a PDF with another name, can't be trained with.
            return min(image.size) if cv2.haveImageReader(path) else None
    except (UnicodeEncodeError, Image.DecompressionBombError):
        # OpenCV crashes at a name that is not UTF-8, and Pillow refuses what it can read.
        return _decoded_short_side(path)
    except (OSError, ValueError):
        return None


def _decoded_short_side(path: str) -> Optional[int]:
    try:
        image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error):
        return None
    return None if image is None else min(image.shape[:2])


def check_readable(paths: Sequence[str]) -> None:
    """Check that images can be read.

    Args:
        paths (Sequence[str]): Of images to validate or test with.

    Raises:
        UserError: If some can't; names them.
    """
    # In training RunGuardHook replaces such an image; a validation can't.
    bad = [path for path in paths if short_side(path) is None]
    if bad:
        raise UserError(
            f'data_root: {len(bad)} of the images to validate or test with cannot be read: '
            f'{listed(bad)}. Delete or mend them.')
