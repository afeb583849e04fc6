# Copyright (c) the autoprog_mm authors. All rights reserved.
import io
import math
import os
import signal
from concurrent.futures.process import BrokenProcessPool

import autoprog_mm  # noqa: F401  (before mmpretrain, which imports torchvision)

# isort: split
import cv2
import numpy as np
import pytest
from PIL import Image

from autoprog_mm.datasets import prepare
from autoprog_mm.datasets.prepare import (
    Outcome,
    Settings,
    is_current,
    prepare_all,
    prepare_images,
    resize_image,
)

SETTINGS = Settings(short_side=32, quality=90)


def picture(height, width):
    coarse = np.random.RandomState(0).randint(0, 256, (6, 8, 3))
    return cv2.resize(coarse.astype(np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)


def encode(image, kind='JPEG', mode='RGB', **options):
    buffer = io.BytesIO()
    Image.fromarray(image[..., ::-1]).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def decode(content):
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)


def psnr(first, second):
    return 10 * math.log10(255**2 / np.square(first.astype(float) - second).mean())


@pytest.mark.parametrize('size, expected', [
    ((100, 160), (32, 51)),
    ((160, 100), (51, 32)),
    ((33, 33), (32, 32)),
    ((400, 34), (376, 32)),
    ((32, 90), None),
    ((90, 32), None),
    ((20, 20), None),
])
def test_sizes(size, expected):
    smaller = resize_image(encode(picture(*size)), 'a.JPEG', SETTINGS)
    assert expected == (None if smaller is None else decode(smaller).shape[:2])


@pytest.mark.parametrize('orientation', range(1, 9))
def test_orientation_is_applied(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    content = encode(picture(96, 160), exif=tags, quality=95)
    smaller = resize_image(content, 'a.jpg', SETTINGS)
    assert not Image.open(io.BytesIO(smaller)).getexif()
    turned = decode(content)
    expected = cv2.resize(turned, decode(smaller).shape[1::-1], interpolation=cv2.INTER_AREA)
    assert expected.shape[:2] == ((32, 53) if orientation < 5 else (53, 32))
    assert psnr(decode(smaller), expected) > 28


@pytest.mark.parametrize('name, kind, mode', [
    ('a.JPEG', 'JPEG', 'L'),
    ('a.JPEG', 'JPEG', 'CMYK'),
    ('a.JPEG', 'PNG', 'RGB'),  # ImageNet has one
    ('a.png', 'PNG', 'RGBA'),
    ('a.bmp', 'BMP', 'RGB'),
])
def test_kinds(name, kind, mode):
    content = encode(picture(96, 160), kind, mode)
    smaller = resize_image(content, name, SETTINGS)
    assert Image.open(io.BytesIO(smaller)).format == {'.JPEG': 'JPEG', '.png': 'PNG',
                                                      '.bmp': 'BMP'}[os.path.splitext(name)[1]]
    expected = cv2.resize(decode(content), (53, 32), interpolation=cv2.INTER_AREA)
    assert psnr(decode(smaller), expected) > 28


def test_quality():
    content = encode(np.random.RandomState(0).randint(0, 256, (99, 99, 3), dtype=np.uint8))
    sizes = [len(resize_image(content, 'a.JPEG', Settings(48, quality)))
             for quality in (50, 90, 100)]
    assert sizes[0] < sizes[1] < sizes[2]


@pytest.mark.parametrize('content', [b'', b'no image', encode(picture(96, 96))[:300]])
def test_unreadable(content):
    with pytest.raises(ValueError, match='the image cannot be read'):
        resize_image(content, 'a.JPEG', SETTINGS)


def test_is_current(tmp_path):
    jpeg, image, copy = encode(picture(20, 20)), tmp_path / 'image', tmp_path / 'copy'
    image.write_bytes(jpeg)
    os.utime(image, (1000, 2000))
    for content, whole in ((jpeg, True), (jpeg[:-20], False), (b'', False), (b'\xff\xd8', False),
                           (bytes(100), False), (encode(picture(20, 20), 'PNG'), True)):
        copy.write_bytes(content)
        assert not is_current(str(image), str(copy))
        os.utime(copy, (5000, 2000))
        assert is_current(str(image), str(copy)) == whole
    assert not is_current(str(image), str(tmp_path / 'none'))
    # An image that was put in the place of another one may be older.
    for seconds, current in ((1990, False), (2010, False), (2001, True)):
        os.utime(image, (1000, seconds))
        assert is_current(str(image), str(copy)) == current


def test_gray_maps():
    gray = picture(96, 160)[..., 0]
    content = cv2.imencode('.pgm', gray)[1].tobytes()
    smaller = resize_image(content, 'a.pgm', SETTINGS)
    assert smaller[:2] == b'P5'
    expected = Image.fromarray(gray).resize((53, 32), Image.Resampling.BICUBIC)
    assert np.array_equal(np.array(Image.open(io.BytesIO(smaller))), np.array(expected))


@pytest.fixture
def folders(tmp_path):
    """A folder of 40 images, one of them bad and one small, and an empty one for the copy."""
    names = []
    for number in range(40):
        name = f'class_{number % 2}/{number}.JPEG'
        for root in ('source', 'target'):
            (tmp_path / root / name).parent.mkdir(parents=True, exist_ok=True)
        content = encode(picture(40 + number, 60))
        (tmp_path / 'source' / name).write_bytes(content)
        names.append(name)
    (tmp_path / 'source' / names[3]).write_bytes(b'')
    (tmp_path / 'source' / names[4]).write_bytes(encode(picture(30, 50)))
    return str(tmp_path / 'source'), str(tmp_path / 'target'), names


def files(root):
    return {os.path.join(folder, name)[len(root) + 1:]: open(
        os.path.join(folder, name), 'rb').read()
        for folder, _, names in os.walk(root) for name in names}


def test_processes_make_no_difference(folders, tmp_path):
    source, target, names = folders
    counts, results = [], []
    for processes in (1, 2):
        outcome = prepare_all(source, target, names, SETTINGS, processes, counts.append)
        assert outcome == Outcome(38, 1, [(names[3], 'ValueError: the image cannot be read')])
        assert sum(counts) == 40 * processes
        results.append(files(target))
    assert results[0] == results[1] and set(results[0]) == set(names) - {names[3]}
    assert results[0][names[4]] == files(source)[names[4]]


def test_half_files_are_never_seen(folders, monkeypatch):
    source, target, names = folders

    def interrupt(*_):
        assert files(target)  # it is there beside
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare.os, 'replace', interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare_images(source, target, names, SETTINGS)
    assert not files(target)


def test_a_process_that_dies(folders, monkeypatch):
    source, target, names = folders
    monkeypatch.setattr(  # in the processes, which are forks
        prepare, 'resize_image', lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(BrokenProcessPool):
        prepare_all(source, target, names, SETTINGS, 2, lambda _: None)
