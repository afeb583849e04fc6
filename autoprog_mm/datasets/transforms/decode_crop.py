# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Loading, cropping and resizing at once, the cheaper the smaller the stage."""
import warnings
from types import SimpleNamespace
from typing import NamedTuple, Optional

import cv2
import mmcv
import numpy as np
import torch
import torch.nn.functional as F
from mmcv.image.geometric import cv2_interp_codes, pillow_interp_codes
from mmengine import fileio
from mmpretrain.registry import TRANSFORMS
from PIL import Image

from ...utils.errors import UserError
from .progressive import ProgressiveRandomResizedCrop

_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
# Markers of a JPEG: start and end of an image, Exif and the like, a scan,
# restarts; frames that are baseline, sequential and progressive.
_START, _END, _APP1, _SCAN, _RESTARTS = b'\xff\xd8', b'\xff\xd9', 0xE1, 0xDA, 0xDD
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2
_OTHER_FRAMES = (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
# Without length, or no marker at all: not expected before a scan.
_UNEXPECTED = {0x00, 0x01, 0xFF, *range(0xD0, 0xDA), *_OTHER_FRAMES}
_ORIENTATION = 0x0112


class JpegHeader(NamedTuple):
    """What has to be known of a JPEG before it is decoded.

    Args:
        height (int): In pixels.
        width (int): In pixels.
        height_at (int | None): Where the two bytes of the height are, if rows
            at the bottom can be left out by lessening it.
        scan_at (int): Where the first scan begins.
    """

    height: int
    width: int
    height_at: Optional[int]
    scan_at: int


@TRANSFORMS.register_module()
class ProgressiveDecodeCrop(ProgressiveRandomResizedCrop):
    """``LoadImageFromFile`` and ``ProgressiveRandomResizedCrop`` in one.

    The crop is drawn from the size in the file's header, so that it is the one
    that ``RandomResizedCrop`` draws from the same seed. A JPEG is then decoded
    at 1/2, 1/4 or 1/8 of its size where both sides of the crop still have at
    least as many pixels as the stage's resolution, without the rows below the
    crop, and resized once. The edges of the crop are rounded to whole pixels
    of the reduced image, less than one pixel of the result, which ``crop_box``
    takes into account. What is no JPEG of one or three channels of 8 bits,
    or is turned by its Exif orientation, is decoded in full, as
    ``LoadImageFromFile`` does; what that can't read raises an error here, too.

    Of the time of decoding 250 JPEGs of ImageNet (500 x 375, 108 kB on
    average) two thirds are entropy decoding, which no reduced scale saves. So
    cv2 took 1.17, 0.98, 0.90 and 0.77 ms an image at 1, 1/2, 1/4 and 1/8, and
    Pillow's draft mode 1.31, 1.09, 0.99 and 0.81 ms (it unpacks to four bytes
    a pixel). PyTurboJPEG needs a library of the system; simplejpeg, which
    brings its own, took 3 % less than cv2 at 1/2, no gain worth a dependency.
    cv2 it is. That the rows below the crop are left out saves another tenth.

    **Required Keys:**

    - img_path

    **Added Keys:**

    - img: BGR, uint8, of shape (resolution, resolution, 3).
    - img_shape: Shape of ``img``.
    - ori_shape: Height and width of the whole image.
    - crop_box: Top, bottom, left and right of the crop, as fractions of the
      image.

    Args:
        *args: As ``RandomResizedCrop``.
        backend_args (dict, optional): File backend, as of
            ``LoadImageFromFile``. Defaults to None, that of the path.
        **kwargs: As ``RandomResizedCrop``.

    Raises:
        ValueError: If ``backend`` is neither 'cv2' nor 'pillow' or has no
            such ``interpolation``, if there is an ``img`` already, or if the
            file can't be decoded.
    """

    def __init__(self, *args, backend_args: Optional[dict] = None, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        codes = dict(cv2=cv2_interp_codes, pillow=pillow_interp_codes).get(self.backend)
        if codes is None:
            raise UserError(
                f"backend of ProgressiveDecodeCrop must be 'cv2' or 'pillow', but got "
                f'{self.backend!r}.')
        if self.interpolation not in codes:
            raise UserError(
                f'interpolation of ProgressiveDecodeCrop with backend={self.backend!r} must be '
                f'one of {sorted(codes)}, but got {self.interpolation!r}.')
        self.backend_args = None if backend_args is None else backend_args.copy()

    def transform(self, results: dict) -> dict:
        """Load a crop of an image.

        Args:
            results (dict): With ``img_path``.

        Returns:
            dict: ``results``, with ``img`` and what belongs to it.
        """
        if 'img' in results:
            raise UserError(
                'ProgressiveDecodeCrop loads the image itself, but there is one already. Take '
                'LoadImageFromFile out of the pipeline, or use ProgressiveRandomResizedCrop.')
        resolution = self.resolution  # once: the main process may set it meanwhile
        content = bytes(fileio.get(results['img_path'], backend_args=self.backend_args))
        image, scale, header = None, 1, read_jpeg_header(content)
        if header is not None:
            height, width = header.height, header.width
            # Only the shape of the image counts.
            crop = self.rand_crop_params(SimpleNamespace(shape=(height, width)))
            scale = next((s for s in (8, 4, 2) if min(crop[2:]) >= s * resolution), 1)
            image = decode_jpeg(content, header, scale, crop[0] + crop[2])
        if image is None:
            scale = 1
            image = mmcv.imfrombytes(content, flag='color', backend='cv2')
            if image is None:
                raise ValueError(f'failed to load image: {results["img_path"]}')
            if header is None or image.shape[:2] != (height, width):
                height, width = image.shape[:2]
                crop = self.rand_crop_params(image)
        # To whole pixels, halves upwards, so that none of a side gets lost.
        top, bottom, left, right = (
            (2 * edge + scale) // (2 * scale)
            for edge in (crop[0], crop[0] + crop[2], crop[1], crop[1] + crop[3]))
        results['img'] = self._resize(image[top:bottom, left:right], resolution)
        results['img_shape'] = results['img'].shape
        results['ori_shape'] = height, width
        results['crop_box'] = (scale * top / height, min(1., scale * bottom / height),
                               scale * left / width, min(1., scale * right / width))
        return results

    def _resize(self, image: np.ndarray, size: int) -> np.ndarray:
        """An image at another size.

        Args:
            image (ndarray): Of shape (H, W, 3).
            size (int): Height and width of the result.

        Returns:
            ndarray: Of shape (size, size, 3).
        """
        if self.backend == 'pillow' and self.interpolation in ('bilinear', 'bicubic'):
            # Pillow's filters but for the last bit, in half the time: 0.39
            # against 0.86 ms from ImageNet's crops to 224 pixels.
            pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
            pixels = F.interpolate(pixels, (size, size), mode=self.interpolation, antialias=True)
            return pixels[0].permute(1, 2, 0).contiguous().numpy()
        return mmcv.imresize(image, (size, size), interpolation=self.interpolation,
                             backend=self.backend)

    def __repr__(self) -> str:
        return f'{super().__repr__()[:-1]}, backend_args={self.backend_args})'


def read_jpeg_header(content: bytes) -> Optional[JpegHeader]:
    """Read the size of a JPEG.

    Args:
        content (bytes): Of a file.

    Returns:
        JpegHeader | None: None if it isn't a JPEG of one or three channels of
        8 bits that is shown as it is stored, or has anything unusual.
    """
    if content[:3] != _START + b'\xff':
        return None
    at, frame_at, sequential, restarts = 2, None, False, False
    while at + 10 <= len(content):
        marker, begin = content[at + 1], at + 4
        end = at + 2 + int.from_bytes(content[at + 2:begin], 'big')
        if content[at] != 0xFF or marker in _UNEXPECTED:
            return None
        if marker == _SCAN:
            break
        if marker in _SEQUENTIAL or marker == _PROGRESSIVE:
            if frame_at is not None:
                return None
            frame_at, sequential = begin, marker != _PROGRESSIVE
        elif marker == _RESTARTS:
            restarts = True
        elif marker == _APP1 and content[begin:begin + 6] == b'Exif\0\0' and \
                _is_turned(content[begin:end]):
            return None
        at = end
    else:
        return None
    if frame_at is None:
        return None
    height = int.from_bytes(content[frame_at + 1:frame_at + 3], 'big')
    width = int.from_bytes(content[frame_at + 3:frame_at + 5], 'big')
    channels = content[frame_at + 5]
    if content[frame_at] != 8 or channels not in (1, 3) or not height or not width:
        return None
    # With all channels in one scan, and without restart markers in it, what
    # follows the rows wanted is plain data up to the end of the image.
    one_scan = sequential and not restarts and content[begin] == channels
    return JpegHeader(height, width, frame_at + 1 if one_scan else None, at)


def _is_turned(exif: bytes) -> bool:
    """Whether Exif data say, or may say, to turn or mirror the image."""
    tags = Image.Exif()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('error')  # also says that they are broken
            tags.load(exif)
            return tags.get(_ORIENTATION, 1) not in (0, 1)
    except Exception:  # broken ones make Pillow raise anything
        return True


def decode_jpeg(content: bytes, header: JpegHeader, scale: int,
                bottom: int) -> Optional[np.ndarray]:
    """Decode the upper part of a JPEG at a reduced scale.

    Args:
        content (bytes): Of the file.
        header (JpegHeader): Its header.
        scale (int): 1, 2, 4 or 8: one pixel for so many in height and width.
        bottom (int): Rows that are needed, in pixels of the full image. They
            are as if all had been decoded.

    Returns:
        ndarray | None: BGR, of shape (H, W, 3), with at least
        ``bottom / scale`` rows. None if it can't be decoded so.
    """
    # Chroma is interpolated from the next row, of which there is one in four.
    rows = bottom + 4 * scale
    end = content.rfind(_END, header.scan_at)
    if header.height_at is None or rows >= header.height or end < 0:
        rows = header.height
    else:
        changed = bytearray(content)
        changed[header.height_at:header.height_at + 2] = rows.to_bytes(2, 'big')
        # libjpeg warns of data between the last row and the end of the image,
        # but not if there is no end; the decoder reads a few bytes ahead.
        changed[end:] = bytes(64)
        content = changed
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), _REDUCED[scale])
    except cv2.error:
        return None
    if image is None or image.shape != (-(-rows // scale), -(-header.width // scale), 3):
        return None
    return image
