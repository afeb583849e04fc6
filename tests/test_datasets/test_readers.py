# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Whatever reads an image sees the same pixels: training, validation, inferencer, teacher, copy."""
import cv2
import numpy as np
import pytest
from mmcv.image import imread
from mmcv.transforms import LoadImageFromFile
from PIL import Image

from autoprog_mm.datasets.prepare import Settings, resize_image
from autoprog_mm.datasets.transforms import ProgressiveDecodeCrop, ProgressiveRandomResizedCrop
from autoprog_mm.token_label.teachers import ImageReader
from autoprog_mm.utils.randomness import seed_sample

IMAGE = cv2.resize(np.random.RandomState(0).randint(0, 256, (6, 8, 3), np.uint8), (80, 60))
GRAY = IMAGE[..., 0].astype(np.uint16)


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return dict(exif=exif)


OTHERS = dict(save_all=True, append_images=[Image.fromarray(255 - IMAGE)])
# Name of the file: format, what is saved, options, and the shape to see.
FILES = {
    **{f'turned_{i}.{ending}': (kind, Image.fromarray(IMAGE), turned(i), (80, 60))
       for i in (6, 8) for kind, ending in (
           ('JPEG', 'jpg'), ('PNG', 'png'), ('WEBP', 'webp'), ('TIFF', 'tiff'))},
    'cmyk.jpg': ('JPEG', Image.fromarray(IMAGE).convert('CMYK'), {}, (60, 80)),
    'gray.jpg': ('JPEG', Image.fromarray(IMAGE).convert('L'), {}, (60, 80)),
    '16_bit.png': ('PNG', Image.fromarray(257 * GRAY), {}, (60, 80)),
    '16_bit.tiff': ('TIFF', Image.fromarray(257 * GRAY), {}, (60, 80)),
    'palette.png': ('PNG', Image.fromarray(IMAGE).convert('P'), dict(transparency=0), (60, 80)),
    'alpha.png': ('PNG', Image.fromarray(IMAGE).convert('LA'), {}, (60, 80)),
    'png.jpg': ('PNG', Image.fromarray(IMAGE), {}, (60, 80)),
    'animated.webp': ('WEBP', Image.fromarray(IMAGE), dict(OTHERS, lossless=True), (60, 80)),
    'animated.png': ('PNG', Image.fromarray(IMAGE), OTHERS, (60, 80)),
}


@pytest.mark.parametrize('name', FILES)
def test_same_pixels(name, tmp_path):
    kind, image, options, shape = FILES[name]
    path = str(tmp_path / name)
    image.save(path, kind, **options)
    seen = LoadImageFromFile()(dict(img_path=path))['img']
    assert seen.shape == (*shape, 3) and seen.dtype == np.uint8
    assert np.array_equal(seen, imread(path))  # as the inferencer
    if name.startswith('16_bit'):  # not cut off at 255
        assert np.array_equal(seen[..., 0], GRAY)
    if name.startswith('animated'):  # its first picture
        assert np.array_equal(seen[..., ::-1], IMAGE)

    crops = []
    for crop, results in (
            (ProgressiveDecodeCrop, dict(img_path=path)),
            (ProgressiveRandomResizedCrop, dict(img=seen, img_shape=shape))):
        seed_sample(1)
        crops.append(crop(scale=60)(results)['img'])
    assert np.array_equal(*crops)

    resized = Image.fromarray(seen).resize((32, 32), Image.Resampling.BICUBIC)
    assert np.array_equal(
        ImageReader(32, 'bicubic', 'pillow')(path).permute(1, 2, 0).numpy(), np.array(resized))

    with open(path, 'rb') as file:
        copied = resize_image(file.read(), name, Settings(30, 100))
    copied = cv2.imdecode(np.frombuffer(copied, np.uint8), cv2.IMREAD_COLOR)
    expected = np.array(Image.fromarray(seen).resize(copied.shape[1::-1], Image.Resampling.BICUBIC))
    difference = np.abs(copied.astype(int) - expected).mean()
    assert difference < 5 if name.endswith('.jpg') else difference == 0
