# Copyright (c) the autoprog_mm authors. All rights reserved.
import os
import os.path as osp
from pathlib import Path
from typing import Optional

import torch
from mmcv.transforms import BaseTransform
from mmpretrain.registry import TRANSFORMS

from ...utils.errors import UserError

# A class is stored in float16, which is exact up to here.
MAX_HALF_CLASSES = 2048
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.int16,
           torch.int32, torch.int64)


@TRANSFORMS.register_module()
class LoadTokenLabel(BaseTransform):
    """Load the label map of an image, and note which part of it is seen.

    A label map has the scores (before softmax) and the classes of the k best
    classes in each cell of a grid that covers the whole image: a tensor of
    shape (2, k, H, W), as in the TokenLabeling release, which
    ``tools/token_label/generate.py`` makes for any data. The map of
    ``<folder>/<image>.JPEG`` is ``label_root/<folder>/<image>.pt``.

    It belongs behind all crops and flips: behind one
    ``ProgressiveRandomResizedCrop`` and at most one ``RandomFlip``, whose box
    and direction it applies to the map. Other transforms that move pixels,
    such as the rotations of RandAugment, are not applied; in TokenLabeling they
    are.
    ``PackInputs`` needs ``algorithm_keys=('token_label', 'token_label_box')``.

    **Required Keys:**

    - img_path
    - crop_box
    - flip, flip_direction (optional)

    **Added Keys:**

    - token_label: The map, flipped as the image: a tensor of shape
      (2, k, H, W), as stored.
    - token_label_box: Top, bottom, left and right of the crop, as fractions of
      the flipped image: a tensor of shape (4, ).

    Args:
        label_root (str): Folder of the maps.
        num_classes (int): Number of classes that a map may name.
            Defaults to 1000.
        image_root (str, optional): Folder of the images, below which paths are
            the same as below ``label_root``. Defaults to the folder above that
            of each image.

    Raises:
        ValueError: Names the file, if it is missing, can't be read or has
            another shape or other classes.
    """

    def __init__(self,
                 label_root: str,
                 num_classes: int = 1000,
                 image_root: Optional[str] = None) -> None:
        self.label_root = label_root
        self.num_classes = num_classes
        self.image_root = image_root

    def transform(self, results: dict) -> dict:
        """Add the map and the box.

        Args:
            results (dict): Of the pipeline.

        Returns:
            dict: ``results``.
        """
        if 'crop_box' not in results:
            raise UserError(
                'LoadTokenLabel needs to know what of the image is seen: put a '
                'ProgressiveRandomResizedCrop before it.')
        label = load_token_label(self.path(results['img_path']), self.num_classes)
        direction = results['flip_direction'] if results.get('flip') else None
        dims = {None: (), 'horizontal': (3, ), 'vertical': (2, ), 'diagonal': (2, 3)}[direction]
        results['token_label'] = label.flip(dims) if dims else label
        results['token_label_box'] = torch.tensor(flip_box(results['crop_box'], direction))
        return results

    def path(self, image_path: str) -> str:
        """Where the map of an image lies.

        Args:
            image_path (str): Path of the image.

        Returns:
            str: Path of the map.
        """
        stem = osp.splitext(image_path)[0]
        if self.image_root is None:
            relative = osp.join(*Path(osp.abspath(stem)).parts[1:][-2:])
        else:
            relative = osp.relpath(stem, self.image_root)
            if relative.split(os.sep)[0] == os.pardir:
                raise UserError(
                    f'The image {image_path!r} is not below image_root of LoadTokenLabel '
                    f'({self.image_root!r}).')
        return osp.join(self.label_root, f'{relative}.pt')

    def __repr__(self) -> str:
        return (f'{type(self).__name__}(label_root={self.label_root!r}, '
                f'num_classes={self.num_classes}, image_root={self.image_root!r})')


def load_token_label(path: str, num_classes: int) -> torch.Tensor:
    """Load and check a label map.

    Args:
        path (str): Of the file.
        num_classes (int): Number of classes that it may name.

    Returns:
        Tensor: Of shape (2, k, H, W).

    Raises:
        ValueError: Names the file and what is wrong with it.
    """
    try:
        label = torch.load(path, map_location='cpu', weights_only=True)
    except FileNotFoundError:
        raise UserError(
            f'There is no label map {path!r}. Make the missing ones with '
            'tools/token_label/generate.py, or set label_root and image_root of '
            'LoadTokenLabel.') from None
    except Exception as error:  # a file that is anything makes torch raise anything
        raise UserError(
            f'The label map {path!r} cannot be read ({type(error).__name__}). Delete it, and make '
            'it again with tools/token_label/generate.py.') from error
    if not isinstance(label, torch.Tensor) or label.ndim != 4 or len(label) != 2 or \
            not label.numel():
        raise UserError(
            f'The label map {path!r} must be a tensor of shape (2, k, H, W), but is '
            f'{tuple(label.shape) if isinstance(label, torch.Tensor) else type(label).__name__}.')
    if label.layout is not torch.strided or label.dtype not in _DTYPES:
        raise UserError(
            f'The label map {path!r} must be a dense tensor of ordinary numbers, but is of '
            f'{label.dtype} and {label.layout}.')
    lowest, highest = label[1].aminmax()
    if not (0 <= lowest and highest < num_classes):
        raise UserError(
            f'The label map {path!r} names classes {lowest:g} to {highest:g}, but the model has '
            f'{num_classes} (num_classes of LoadTokenLabel): its teacher had others.')
    if label.is_floating_point():
        exact = int(2 / torch.finfo(label.dtype).eps)  # whole numbers up to here
        if num_classes > exact or not torch.equal(label[1], label[1].floor()):
            raise UserError(
                f'The label map {path!r} names classes that are not exact: in {label.dtype} whole '
                f'numbers are up to {exact}. Make it again with tools/token_label/generate.py.')
    if not torch.isfinite(label[0]).all():
        raise UserError(f'The label map {path!r} has scores that are not finite.')
    return label


def flip_box(box, direction: Optional[str]) -> tuple:
    """Where a box lies in the flipped image.

    Args:
        box (Sequence[float]): Top, bottom, left and right, as fractions.
        direction (str | None): As ``flip_direction`` of ``RandomFlip``.

    Returns:
        tuple[float]: The same four.
    """
    top, bottom, left, right = box
    if direction in ('vertical', 'diagonal'):
        top, bottom = 1 - bottom, 1 - top
    if direction in ('horizontal', 'diagonal'):
        left, right = 1 - right, 1 - left
    return top, bottom, left, right
