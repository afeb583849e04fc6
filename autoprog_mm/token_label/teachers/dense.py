# Copyright (c) the autoprog_mm authors. All rights reserved.
from typing import Tuple

import mmcv
import numpy as np
import torch
import torch.nn as nn
from mmcv.transforms import LoadImageFromFile
from mmpretrain.models.utils import ClsDataPreprocessor

from ...utils.errors import UserError


class DenseTeacher(nn.Module):
    """A classifier that is asked about each cell of its last feature map.

    Attributes:
        reader (ImageReader): Reads images as :meth:`preprocess` takes them.
        fingerprint (str): Tells its weights from others.
        num_classes (int): Number of classes.
        grid (tuple[int]): Rows and columns of cells.

    Args:
        cells (nn.Module): Gives scores of shape (B, h, w, num_classes) for
            normalised images, such as :class:`TimmCells`.
        data_preprocessor (ClsDataPreprocessor): Normalises images.
        reader (ImageReader): Reads images.
        fingerprint (str): From :func:`weights_fingerprint`.

    Raises:
        ValueError: If images of the reader's size don't go through it, or it
            has no grid of cells.
    """

    def __init__(self, cells: nn.Module, data_preprocessor: ClsDataPreprocessor,
                 reader: 'ImageReader', fingerprint: str) -> None:
        super().__init__()
        self.cells = cells
        self.data_preprocessor = data_preprocessor
        self.reader = reader
        self.fingerprint = fingerprint
        self.eval()
        _, *self.grid, self.num_classes = self._try().shape
        self.grid: Tuple[int, int] = tuple(self.grid)

    @property
    def img_size(self) -> int:
        """Width and height of the images, in pixels."""
        return self.reader.size

    def to(self, device: torch.device) -> 'DenseTeacher':
        """Move to a device.

        Args:
            device (torch.device | str): The device.

        Returns:
            DenseTeacher: Itself.
        """
        self.data_preprocessor.to(device)  # which remembers where to bring images
        return super().to(device)

    def preprocess(self, images: torch.Tensor) -> torch.Tensor:
        """Bring images to the teacher's device and normalise them.

        Args:
            images (Tensor): From the reader, of shape (B, C, H, W), uint8.

        Returns:
            Tensor: Of the same shape, float.
        """
        return self.data_preprocessor(dict(inputs=images))['inputs']

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Score each cell as if it were the whole image.

        Args:
            images (Tensor): From :meth:`preprocess`, of shape (B, C, H, W).

        Returns:
            Tensor: Scores before softmax, of shape (B, h, w, num_classes).
        """
        return self.cells(images)

    def describe_input(self) -> dict:
        """How images are made ready.

        Returns:
            dict: Of plain values.
        """
        normalize = {
            name: getattr(self.data_preprocessor, name).flatten().tolist()
            for name in ('mean', 'std') if hasattr(self.data_preprocessor, name)
        }
        return dict(**self.reader.describe(), to_rgb=self.data_preprocessor.to_rgb, **normalize)

    def _try(self) -> torch.Tensor:
        """Scores of one black image, which show what a teacher can't do."""
        size = self.img_size
        black = torch.zeros(1, self.reader.channels, size, size, dtype=torch.uint8)
        with torch.inference_mode():
            images = self.preprocess(black)
            if images.shape != black.shape:
                raise UserError(
                    f'--img-size {size} is padded to {tuple(images.shape[-2:])} by the data '
                    'preprocessor of the teacher, so that its cells would not be those of the '
                    'image: give a multiple of its pad_size_divisor '
                    f'({self.data_preprocessor.pad_size_divisor}).')
            try:
                scores = self(images)
            # What layers raise for features or sizes that they were not made for.
            except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError) as error:
                raise UserError(
                    f'The teacher cannot score single cells of images of {size} x {size} pixels '
                    f'({type(error).__name__}: {error}). Try another --img-size, or another '
                    'teacher.') from error
        if scores.shape[1:3] == (1, 1):
            raise UserError(
                f'At --img-size {size} the teacher has no more than one cell, so it cannot say '
                'what is where. Give a larger one.')
        return scores


class ImageReader:
    """Reads an image as mmpretrain does and resizes all of it to a square.

    It is small and can be handed to other processes.

    Args:
        size (int): Width and height to give, in pixels.
        interpolation (str): As mmpretrain's ``Resize``. Defaults to
            ``'bilinear'``.
        backend (str): That of resizing, ``'cv2'`` or ``'pillow'``. Defaults to
            ``'cv2'``.
        **load: Of ``LoadImageFromFile``: ``color_type`` and
            ``imdecode_backend``.
    """

    def __init__(self, size: int, interpolation: str = 'bilinear', backend: str = 'cv2',
                 **load) -> None:
        self.size = size
        self.interpolation = interpolation
        self.backend = backend
        self.load = LoadImageFromFile(**load)
        self.channels = 1 if self.load.color_type.startswith('gray') else 3

    def __call__(self, path: str) -> torch.Tensor:
        """Read an image.

        Args:
            path (str): Of the file.

        Returns:
            Tensor: Of shape (C, size, size), uint8, in the order BGR.
        """
        image = self.load(dict(img_path=path))['img']
        image = mmcv.imresize(
            image, (self.size, self.size), interpolation=self.interpolation, backend=self.backend)
        return torch.from_numpy(np.ascontiguousarray(np.atleast_3d(image).transpose(2, 0, 1)))

    def describe(self) -> dict:
        """Its settings, without the size.

        Returns:
            dict: Of plain values.
        """
        return dict(
            interpolation=self.interpolation,
            backend=self.backend,
            color_type=self.load.color_type,
            imdecode_backend=self.load.imdecode_backend)
