# Copyright (c) the autoprog_mm authors. All rights reserved.
"""ProgressiveDecodeCrop against mmpretrain's LoadImageFromFile and RandomResizedCrop."""
import copy
import io
import math
import os
import random
import struct

import autoprog_mm  # noqa: F401  (before mmpretrain, which imports torchvision)

# isort: split
import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import Compose
from mmpretrain.datasets.transforms import RandomResizedCrop
from mmpretrain.registry import TRANSFORMS
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from autoprog_mm.datasets import ProgressiveDecodeCrop
from autoprog_mm.datasets.pipelines import ProgressivePipelines
from autoprog_mm.datasets.seeded import SeededDataset, SeededIndex
from autoprog_mm.datasets.transforms import decode_crop
from autoprog_mm.datasets.transforms.decode_crop import decode_jpeg, read_jpeg_header

HEIGHT, WIDTH = 301, 403
CROP = dict(backend='pillow', interpolation='bicubic')


def picture(height=HEIGHT, width=WIDTH):
    """Smooth enough for half a pixel to matter little, and different everywhere."""
    coarse = np.random.RandomState(0).randint(0, 256, (height // 60, width // 60, 3))
    return cv2.resize(coarse.astype(np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)


def jpeg(image=None, mode='RGB', **options):
    image = picture() if image is None else image
    buffer = io.BytesIO()
    Image.fromarray(image[..., ::-1]).convert(mode).save(
        buffer, 'JPEG', **{'quality': 92, **options})
    return buffer.getvalue()


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def png():
    return cv2.imencode('.png', picture())[1].tobytes()


FILES = {
    'colour': lambda: jpeg(),
    'no chroma subsampling': lambda: jpeg(subsampling=0),
    'half chroma': lambda: jpeg(subsampling=1),
    'grey': lambda: jpeg(mode='L'),
    'CMYK': lambda: jpeg(mode='CMYK'),
    'progressive': lambda: jpeg(progressive=True),
    'restart markers': lambda: jpeg(restart_marker_blocks=3),
    'comment': lambda: jpeg(comment=b'\xff\xd9\xff\xc0' * 50),
    'trailing data': lambda: jpeg() + b'\0' * 100,
    'broken Exif': lambda: jpeg(exif=b'Exif\0\0II*\0\xff\xff\xff\xff'),
    'PNG': png,
    **{f'orientation {o}': lambda o=o: jpeg(exif=exif(o)) for o in range(9)},
}
# Those that must be decoded in full.
WHOLE = {'CMYK', 'PNG', 'broken Exif', *(f'orientation {o}' for o in range(2, 9))}


@pytest.fixture
def write(tmp_path):

    def write(content, name='image.JPEG'):
        (tmp_path / name).write_bytes(content)
        return str(tmp_path / name)

    return write


class Stock:
    """What mmpretrain does, and the crop that it draws."""

    def __init__(self, scale, **options):
        self.crop = RandomResizedCrop(scale, **{**CROP, **options})
        self.load = LoadImageFromFile()

    def __call__(self, results):
        results = self.load(results)
        state = np.random.get_state()
        self.params = self.crop.rand_crop_params(results['img'])
        np.random.set_state(state)
        return self.crop(results)


def run(transform, path, seed=0):
    np.random.seed(seed)
    random.seed(seed)
    return transform(dict(img_path=path, gt_label=3))


def psnr(first, second):
    error = np.square(first.astype(float) - second).mean()
    return 10 * math.log10(255**2 / error) if error else math.inf


@pytest.fixture
def scales(monkeypatch):
    """Scales at which JPEGs are decoded, and the rows that come of it."""
    seen = []

    def decode(content, header, scale, bottom):
        image = decode_jpeg(content, header, scale, bottom)
        seen.append((scale, None if image is None else len(image)))
        return image

    monkeypatch.setattr(decode_crop, 'decode_jpeg', decode)
    return seen


@pytest.mark.parametrize('name', FILES)
@pytest.mark.parametrize('size', [16, 64, 250])
def test_is_what_stock_gives(name, size, write, scales, capfd):
    path = write(FILES[name]())
    ours, stock = ProgressiveDecodeCrop(size, **CROP), Stock(size)
    for seed in range(8):
        expected, result = run(stock, path, seed), run(ours, path, seed)
        top, left, height, width = stock.params
        assert tuple(ours._params) == stock.params
        assert result.keys() - expected.keys() == {'crop_box'}
        for key in ('img_path', 'gt_label', 'img_shape', 'ori_shape'):
            assert result[key] == expected[key], key
        image = result['img']
        assert image.dtype == np.uint8 and image.flags.c_contiguous and image.flags.writeable
        scale = 1 if name in WHOLE else next(
            (s for s in (8, 4, 2) if min(height, width) >= s * size), 1)
        if name not in WHOLE:
            assert scales[-1][0] == scale
        if scale == 1:  # but for rounding
            assert np.abs(image.astype(int) - expected['img']).max() <= 2
        assert psnr(image, expected['img']) > 30
        shape = expected['ori_shape'] * 2
        edges = [edge * side for edge, side in zip(
            result['crop_box'], (shape[0], shape[0], shape[1], shape[1]))]
        assert np.abs(np.array(edges) - [top, top + height, left, left + width]).max() <= scale / 2
    if name in WHOLE:
        assert not scales
    else:
        assert {scale for scale, _ in scales} >= {16: {4, 8}, 64: {1, 2}, 250: {1}}[size]
    assert capfd.readouterr().err == ''  # libjpeg would complain here


@pytest.mark.parametrize('options', [
    dict(backend='cv2', interpolation='bilinear'),
    dict(backend='cv2', interpolation='area'),
    dict(backend='pillow', interpolation='lanczos'),
    dict(backend='pillow', interpolation='bilinear'),
    dict(max_attempts=0),
    dict(crop_ratio_range=(0.3, 0.5), aspect_ratio_range=(0.5, 2.)),
])
def test_options_are_those_of_the_crop(options, write):
    path = write(jpeg())
    for size in (48, 224):
        ours, stock = ProgressiveDecodeCrop(size, **{**CROP, **options}), Stock(size, **options)
        for seed in range(6):
            expected, result = run(stock, path, seed), run(ours, path, seed)
            assert tuple(ours._params) == stock.params
            assert psnr(result['img'], expected['img']) > 28


@pytest.mark.parametrize('subsampling', [0, 1, 2])
@pytest.mark.parametrize('scale', [1, 2, 4, 8])
def test_upper_rows_are_exact(subsampling, scale):
    """Leaving out rows changes nothing in those that are wanted."""
    noise = np.random.RandomState(1).randint(0, 256, (150, 90, 3), dtype=np.uint8)
    content = jpeg(noise, subsampling=subsampling)
    header = read_jpeg_header(content)
    assert header[:2] == (150, 90)
    whole = decode_jpeg(content, header._replace(height_at=None), scale, 150)
    assert whole.shape == (-(-150 // scale), -(-90 // scale), 3)
    for bottom in (*range(1, 150, 7), 149, 150):
        part, needed = decode_jpeg(content, header, scale, bottom), -(-bottom // scale)
        assert needed <= len(part) <= needed + 5
        np.testing.assert_array_equal(part[:needed], whole[:needed])


def test_rows_are_left_out_where_possible():
    for name, possible in (('colour', True), ('grey', True), ('comment', True),
                           ('progressive', False), ('restart markers', False)):
        assert (read_jpeg_header(FILES[name]()).height_at is not None) == possible, name


@pytest.mark.parametrize('name, content', [
    ('empty', lambda: b''),
    ('text', lambda: b'no image at all' * 20),
    ('header only', lambda: jpeg()[:300]),
    ('two bytes', lambda: b'\xff\xd8'),
    ('truncated', lambda: jpeg()[:-2000]),
    ('truncated, with a thumbnail', lambda: jpeg(exif=b'Exif\0\0' + b'\xff\xd9' * 9)[:-2000]),
])
def test_unreadable_files_are_those_of_stock(name, content, write):
    path = write(content())
    errors = {}
    for kind, transform in (('stock', Stock(32)), ('ours', ProgressiveDecodeCrop(32, **CROP))):
        try:
            run(transform, path)
        except Exception as error:
            errors[kind] = error
    # Newer versions of OpenCV refuse truncated files, older ones fill them up.
    assert set(errors) in ({'stock', 'ours'}, set()), errors
    if errors and not isinstance(errors['stock'], cv2.error):
        assert isinstance(errors['ours'], ValueError)
        assert str(errors['ours']) == f'failed to load image: {path}'


def test_what_cannot_be_decoded_in_part_is_decoded_in_full(write, monkeypatch):
    path = write(jpeg())
    monkeypatch.setattr(decode_crop, 'decode_jpeg', lambda *_: None)
    ours, stock = ProgressiveDecodeCrop(16, **CROP), Stock(16)
    for seed in range(4):
        expected, result = run(stock, path, seed), run(ours, path, seed)
        assert np.abs(result['img'].astype(int) - expected['img']).max() <= 2
        assert result['ori_shape'] == (HEIGHT, WIDTH)


def test_damaged_file_is_read_as_stock_reads_it(write):
    content = bytearray(jpeg())
    content[-6000:-5900] = bytes(range(100))
    path = write(bytes(content))
    ours, stock = ProgressiveDecodeCrop(250, **CROP), Stock(250)
    for seed in range(4):
        expected, result = run(stock, path, seed), run(ours, path, seed)
        assert psnr(result['img'], expected['img']) > 30


def test_header_that_lies(write):
    """A height that the data do not have makes no difference to what is an error."""
    content = bytearray(jpeg())
    at = read_jpeg_header(bytes(content)).height_at
    content[at:at + 2] = struct.pack('>H', 2 * HEIGHT)
    path = write(bytes(content))
    ours = ProgressiveDecodeCrop(16, **CROP)
    assert run(ours, path)['ori_shape'] == run(Stock(16), path)['ori_shape'] == (602, WIDTH)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        run(ProgressiveDecodeCrop(16), str(tmp_path / 'none.JPEG'))


def test_backend_args(tmp_path, write):
    path = write(jpeg())
    crop = ProgressiveDecodeCrop(32, backend_args=dict(backend='local'))
    np.testing.assert_array_equal(run(crop, path)['img'],
                                  run(ProgressiveDecodeCrop(32), path)['img'])
    with pytest.raises(KeyError, match='no_such_backend'):
        run(ProgressiveDecodeCrop(32, backend_args=dict(backend='no_such_backend')), path)


def test_errors_and_repr():
    with pytest.raises(ValueError, match="backend .* must be 'cv2' or 'pillow', but got 'turbo'"):
        ProgressiveDecodeCrop(32, backend='turbo')
    with pytest.raises(ValueError, match="backend='pillow' must be one of .* but got 'area'"):
        ProgressiveDecodeCrop(32, backend='pillow', interpolation='area')
    with pytest.raises(ValueError, match='there is one already. Take LoadImageFromFile out'):
        ProgressiveDecodeCrop(32)(dict(img_path='x', img=picture()))
    built = TRANSFORMS.build(dict(type='ProgressiveDecodeCrop', scale=32))
    assert repr(built).startswith('ProgressiveDecodeCrop(scale=(32, 32)')
    assert repr(built).endswith('backend=cv2, backend_args=None)')


class Sizes(Dataset):

    def __init__(self, path):
        self.path = path
        self.pipeline = Compose([ProgressiveDecodeCrop(64, **CROP)])

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return len(self.pipeline(dict(img_path=self.path))['img']), os.getpid()


def take_as_is(items):
    return items


def test_running_workers_follow(write):
    dataset = Sizes(write(jpeg()))
    pipelines = ProgressivePipelines(dataset, 64)
    loader = DataLoader(dataset, batch_size=1, num_workers=2, persistent_workers=True,
                        collate_fn=take_as_is, multiprocessing_context='fork')
    workers = []
    for size in (64, 24, 48):
        pipelines.set_resolution(size)
        items = [item for batch in loader for item in batch]
        assert [item[0] for item in items] == [size] * 6
        workers.append({item[1] for item in items})
    assert len(workers[0]) == 2 and workers[0] == workers[1] == workers[2]
    twin = copy.deepcopy(dataset)
    pipelines.set_resolution(16)
    assert twin[0][0] == 16
    del loader


def test_bad_images_are_replaced(write):
    """Where samples are seeded, an image that can't be read gives way to another."""
    paths = [write(jpeg()[:-2000], 'bad.JPEG'), write(jpeg(), 'good.JPEG')]
    pack = TRANSFORMS.build(dict(type='PackInputs'))
    pipeline = Compose([ProgressiveDecodeCrop(32, **CROP), pack])

    class Two(Dataset):

        def __len__(self):
            return 2

        def __getitem__(self, index):
            return pipeline(dict(img_path=paths[index]))

    sample = SeededDataset(Two())[SeededIndex(0, 5)]
    assert sample['data_samples'].img_path == paths[1]
    (path, reason), *_ = sample['data_samples'].bad_images
    assert path == paths[0] and reason == f'ValueError: failed to load image: {paths[0]}'


@pytest.mark.parametrize('direction', [None, 'horizontal'])
def test_token_labels_follow_the_crop(direction, tmp_path, write):
    """The image and its label map both tell the place."""
    ramp = np.tile(np.linspace(0, 255, 600), (480, 1)).astype(np.uint8)
    (tmp_path / 'images').mkdir()
    path = write(jpeg(np.stack([ramp] * 3, -1), quality=98), 'images/ramp.JPEG')
    (tmp_path / 'maps' / 'images').mkdir(parents=True)
    torch.save(torch.zeros(2, 1, 4, 4), tmp_path / 'maps' / 'images' / 'ramp.pt')
    pipeline = Compose([TRANSFORMS.build(cfg) for cfg in (
        dict(type='ProgressiveDecodeCrop', scale=32, **CROP),
        dict(type='RandomFlip', prob=1. if direction else 0., direction='horizontal'),
        dict(type='LoadTokenLabel', label_root=str(tmp_path / 'maps')))])
    for seed in range(8):
        results = run(pipeline, path, seed)
        left, right = results['token_label_box'][2:].tolist()
        seen = results['img'].mean((0, 2)) / 255
        places = left + (np.arange(32) + 0.5) / 32 * (right - left)
        np.testing.assert_allclose(seen, 1 - places if direction else places, atol=0.006)
