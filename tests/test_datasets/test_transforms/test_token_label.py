# Copyright (c) the autoprog_mm authors. All rights reserved.
"""LoadTokenLabel in real pipelines, with real files."""
import io
import pickle
import random

import autoprog_mm  # noqa: F401  (before mmpretrain, which imports torchvision)

# isort: split
import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import Compose, default_collate
from mmpretrain.datasets import ImageNet
from mmpretrain.registry import TRANSFORMS
from torch.utils.data import DataLoader

from autoprog_mm.datasets import LoadTokenLabel
from autoprog_mm.models import TokenLabelDataPreprocessor

LOAD = dict(type='LoadImageFromFile')
CROP = dict(
    type='ProgressiveRandomResizedCrop', scale=32, crop_ratio_range=(0.1, 1.),
    aspect_ratio_range=(0.4, 2.5))
PACK = dict(type='PackInputs', algorithm_keys=('token_label', 'token_label_box'))
NUM_CLASSES = 4
SLOPE = 4.


def flip(direction, prob=1.):
    return dict(type='RandomFlip', prob=prob, direction=direction)


def pipeline(*transforms, **options):
    """From a file to a sample, with these transforms in between."""
    loading = dict(type='LoadTokenLabel', num_classes=NUM_CLASSES, **options)
    return Compose([TRANSFORMS.build(cfg) for cfg in (LOAD, *transforms, loading, PACK)])


def run(transform, path, seed=0):
    np.random.seed(seed)
    random.seed(seed)
    return transform(dict(img_path=str(path), gt_label=1))


def save(label, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(label, path)


def ramps(height, width):
    """How far to the right and how far down each cell's centre is."""
    return (np.tile((np.arange(width) + 0.5) / width, (height, 1)),
            np.tile((np.arange(height) + 0.5)[:, None] / height, (1, width)))


@pytest.fixture
def gradient(tmp_path):
    """An image whose first channels tell the place, and a label map that tells the same."""
    path = tmp_path / 'images' / 'folder' / 'gradient.png'
    path.parent.mkdir(parents=True)
    right, down = ramps(60, 84)
    image = np.stack([right, down, np.zeros_like(right)], -1)
    cv2.imwrite(str(path), np.round(255 * image).astype(np.uint8))
    # Class 0 rises to the right, class 1 downwards; classes 2 and 3 are named nowhere.
    right, down = ramps(24, 20)
    label = torch.zeros(2, 2, 24, 20)
    label[:, 0] = torch.stack([torch.tensor(SLOPE * right), torch.zeros(24, 20)])
    label[:, 1] = torch.stack([torch.tensor(SLOPE * down), torch.ones(24, 20)])
    # Which comes first is another matter.
    label[..., ::2] = label[..., ::2].flip(1)
    save(label, tmp_path / 'labels' / 'folder' / 'gradient.pt')
    return path, str(tmp_path / 'labels')


def places(image, side):
    """Mean place of each token that an image itself tells: (h, w, 2)."""
    size = image.shape[-1]
    means = np.zeros((size // side, size // side, 2))
    for row in range(size // side):
        for column in range(size // side):
            block = image[:2, row * side:(row + 1) * side, column * side:(column + 1) * side]
            means[row, column] = block.float().mean((1, 2)).numpy() / 255
    return means


def told(sample, resolution=None):
    """Mean place of each token that its target tells, and of the class token's target."""
    preprocessor = TokenLabelDataPreprocessor(num_classes=NUM_CLASSES, token_size=8)
    preprocessor.resolution = resolution
    data = preprocessor(
        dict(inputs=sample['inputs'][None], data_samples=[sample['data_samples']]), training=True)
    scores = data['data_samples'][0].token_score.double().log().numpy()
    class_scores = data['data_samples'][0].token_class_score.double().log().numpy()
    return ((scores[..., :2] - scores[..., 2:3]) / SLOPE,
            (class_scores[:2] - class_scores[2]) / SLOPE)


ORDERS = {
    'crop': [CROP],
    'horizontal': [CROP, flip('horizontal')],
    'vertical': [CROP, flip('vertical')],
    'diagonal': [CROP, flip('diagonal')],
    'any': [CROP, flip(['horizontal', 'vertical', 'diagonal'], 0.8)],
    'horizontal first': [flip('horizontal'), CROP],
    'vertical first': [flip('vertical'), CROP],
    'diagonal first': [flip('diagonal'), CROP],
    'any first': [flip(['horizontal', 'vertical', 'diagonal'], 0.8), CROP],
    'resized first': [dict(type='Resize', scale=(50, 90)), CROP, flip('horizontal')],
}


@pytest.mark.parametrize('order', ORDERS)
def test_targets_follow_the_image(order, gradient):
    """What each token's target tells is what the pixels of that token tell."""
    path, label_root = gradient
    transform = pipeline(*ORDERS[order], label_root=label_root)
    seen = []
    for seed in range(8):
        sample = run(transform, path, seed)
        scores, class_scores = told(sample)
        own = places(sample['inputs'], 8)
        assert own.shape == (4, 4, 2)
        # Half a cell at the border of the map, and the rounding of pixels.
        assert np.abs(scores - own).max() < 0.025
        assert np.abs(scores - own).mean() < 0.006
        np.testing.assert_allclose(class_scores, own.mean((0, 1)), atol=0.01)
        seen.append(own)
    seen = np.array(seen)
    assert seen.std(0).min() > 0.02  # crops differ
    if order != 'crop' and 'any' not in order:
        directions = [seen[:, :, -1, 0] < seen[:, :, 0, 0], seen[:, -1, :, 1] < seen[:, 0, :, 1]]
        flipped = [axis.all() for axis in directions]
        assert flipped == ['horizontal' in order or 'diag' in order or 'resized' in order,
                           'vertical' in order or 'diag' in order]


@pytest.mark.parametrize('resolution', [16, 24, 48])
def test_targets_follow_at_other_resolutions(resolution, gradient):
    """Those of a stage, and those that a search resizes to."""
    path, label_root = gradient
    transform = pipeline(CROP, flip('horizontal', 0.5), label_root=label_root)
    crop = transform.transforms[1]
    for seed in range(4):
        crop.resolution = resolution
        sample = run(transform, path, seed)
        assert sample['inputs'].shape == (3, resolution, resolution)
        own = places(sample['inputs'], 8)
        assert np.abs(told(sample)[0] - own).max() < 0.03
        crop.resolution = 32
        # Pixels of another size are rounded to other values.
        assert np.abs(told(run(transform, path, seed), resolution)[0] - own).max() < 0.05


@pytest.mark.parametrize('left, direction, behind', [
    (21, 'horizontal', (0.1, 0.35, 0.25, 0.75)),
    (21, 'vertical', (0.65, 0.9, 0.25, 0.75)),
    (0, 'horizontal', (0.1, 0.35, 0.5, 1.)),
    (0, 'vertical', (0.65, 0.9, 0., 0.5)),
    (0, 'diagonal', (0.65, 0.9, 0.5, 1.)),
])
def test_box_by_hand(left, direction, behind, gradient, monkeypatch):
    """A crop of 15 x 42 of 60 x 84 pixels, 6 pixels below the top."""
    path, label_root = gradient
    shape, corner = iter([0.125, np.log(42 / 15)] * 2), iter([6, left] * 2)
    monkeypatch.setattr(np.random, 'uniform', lambda low, high: next(shape))
    monkeypatch.setattr(np.random, 'randint', lambda low, high: next(corner))
    sample = run(pipeline(CROP, flip(direction), label_root=label_root), path)
    box = sample['data_samples'].token_label_box
    assert box.dtype == torch.float32 and box.shape == (4, )
    assert box.tolist() == pytest.approx(behind)
    # A crop of the flipped image is where it is in it.
    sample = run(pipeline(flip(direction), CROP, label_root=label_root), path)
    assert sample['data_samples'].token_label_box.tolist() == \
        pytest.approx((0.1, 0.35, left / 84, left / 84 + 0.5))


@pytest.mark.parametrize('direction, axes', [
    ('horizontal', [3]), ('vertical', [2]), ('diagonal', [2, 3])])
def test_map_is_flipped(direction, axes, gradient):
    path, label_root = gradient
    stored = torch.load(f'{label_root}/folder/gradient.pt')
    for transforms in ((CROP, flip(direction)), (flip(direction), CROP)):
        sample = run(pipeline(*transforms, label_root=label_root), path)['data_samples']
        assert torch.equal(sample.token_label, stored.flip(axes))
        assert sample.flip and sample.flip_direction == direction
    for transforms in ((CROP, ), (CROP, flip(direction, 0.))):
        sample = run(pipeline(*transforms, label_root=label_root), path)['data_samples']
        assert torch.equal(sample.token_label, stored)


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32, torch.uint8])
def test_map_is_as_stored(dtype, gradient):
    path, label_root = gradient
    stored = torch.load(f'{label_root}/folder/gradient.pt').to(dtype)
    torch.save(stored, f'{label_root}/folder/gradient.pt')
    sample = run(pipeline(CROP, label_root=label_root), path)['data_samples']
    assert sample.token_label.dtype == dtype and torch.equal(sample.token_label, stored)


def test_crop_is_where_it_says(gradient):
    """The box's corners are those that the pixels tell."""
    path, _ = gradient
    image = cv2.imread(str(path))
    crop = TRANSFORMS.build({**CROP, 'scale': 64})
    for seed in range(6):
        np.random.seed(seed)
        results = crop(dict(img=image.copy(), img_shape=image.shape[:2]))
        top, bottom, left, right = results['crop_box']
        assert 0 <= top < bottom <= 1 and 0 <= left < right <= 1
        right_of, down = results['img'][..., 0] / 255, results['img'][..., 1] / 255
        # Pixels' centres are half a pixel of the original or of the crop inside.
        assert right_of[:, 0].mean() == pytest.approx(left, abs=0.02)
        assert right_of[:, -1].mean() == pytest.approx(right, abs=0.02)
        assert down[0].mean() == pytest.approx(top, abs=0.02)
        assert down[-1].mean() == pytest.approx(bottom, abs=0.02)


# ---------------------------------------------------------------------- files


def numbered_maps(jpeg_root, label_root):
    """A map for each training JPEG whose scores are the number of the file."""
    paths = sorted((jpeg_root / 'train').glob('*/*.jpg'))
    assert len(paths) == 48
    for number, path in enumerate(paths):
        label = torch.zeros(2, 3, 5, 5, dtype=torch.float16)
        label[0], label[1] = number, torch.arange(3.)[:, None, None]
        save(label, label_root / path.parent.name / f'{path.stem}.pt')
    return {str(path): number for number, path in enumerate(paths)}


class Files(ImageNet):
    """Of this module, for a spawned worker to import ``autoprog_mm`` before mmpretrain."""


def test_through_workers(jpeg_root, tmp_path):
    """Samples arrive with the maps of their own files, whatever the resolution."""
    numbers = numbered_maps(jpeg_root, tmp_path)
    loading = dict(type='LoadTokenLabel', label_root=str(tmp_path), num_classes=NUM_CLASSES)
    data = Files(
        data_root=str(jpeg_root), split='train',
        pipeline=[LOAD, CROP, flip('horizontal', 0.5), loading, PACK])
    augments = [dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.)]
    preprocessor = TokenLabelDataPreprocessor(
        num_classes=NUM_CLASSES, token_size=8, batch_augments=dict(augments=augments))
    loader = DataLoader(
        data, batch_size=12, num_workers=2, persistent_workers=True,
        collate_fn=default_collate, multiprocessing_context='fork')
    for resolution in (32, 16, 24):
        data.pipeline.transforms[1].resolution = resolution
        seen, flips = [], set()
        for batch in loader:
            assert batch['inputs'].shape == (12, 3, resolution, resolution)
            for sample in batch['data_samples']:
                seen.append(sample.img_path)
                flips.add(sample.flip)
                assert sample.token_label[0].unique().tolist() == [numbers[sample.img_path]]
                assert sample.token_label.shape == (2, 3, 5, 5)
                top, bottom, left, right = sample.token_label_box.tolist()
                assert 0 <= top < bottom <= 1 and 0 <= left < right <= 1
            result = preprocessor(batch, training=True)
            for sample in result['data_samples']:
                side = resolution // 8
                assert sample.token_score.shape == (side, side, NUM_CLASSES)
                assert sample.gt_score.shape == (NUM_CLASSES, )
        assert sorted(seen) == sorted(numbers)
        assert flips == {True, False}
    loader._iterator._shutdown_workers()


def test_transforms_of_pixels_leave_the_map_alone(jpeg_root, tmp_path):
    numbers = numbered_maps(jpeg_root, tmp_path)
    transform = pipeline(
        CROP, flip('horizontal', 0.5),
        dict(type='ProgressiveRandAugment', policies='timm_increasing', num_policies=2,
             magnitude_level=9),
        dict(type='ProgressiveRandomErasing', erase_prob=1.), label_root=str(tmp_path))
    for path, number in list(numbers.items())[:6]:
        sample = run(transform, path, number)
        assert sample['data_samples'].token_label[0].unique().tolist() == [number]
        assert sample['inputs'].shape == (3, 32, 32)


@pytest.mark.parametrize('image_root, image, expected', [
    (None, '/data/train/n01/a.JPEG', 'n01/a.pt'),
    (None, 'train/n01/a.b.png', 'n01/a.b.pt'),
    (None, 'n.01/a', 'n.01/a.pt'),
    ('/data', '/data/train/n01/a.JPEG', 'train/n01/a.pt'),
    ('/data/', '/data/a.jpg', 'a.pt'),
    ('data', 'data/x/y/z/a.jpeg', 'x/y/z/a.pt'),
    ('/data/train', '/data/train/n01/../n02/a.png', 'n02/a.pt'),
])
def test_path(image_root, image, expected):
    transform = LoadTokenLabel('/labels', image_root=image_root)
    assert transform.path(image) == f'/labels/{expected}'


def test_image_root(gradient, tmp_path):
    path, label_root = gradient
    stored = torch.load(f'{label_root}/folder/gradient.pt')
    save(stored, tmp_path / 'deep' / 'images' / 'folder' / 'gradient.pt')
    transform = pipeline(CROP, label_root=str(tmp_path / 'deep'), image_root=str(tmp_path))
    assert torch.equal(run(transform, path)['data_samples'].token_label, stored)
    with pytest.raises(ValueError, match='There is no label map'):
        run(pipeline(CROP, label_root=label_root, image_root=str(tmp_path)), path)


def test_registered_with_defaults():
    transform = TRANSFORMS.build(dict(type='LoadTokenLabel', label_root='labels'))
    assert type(transform) is LoadTokenLabel
    assert repr(transform) == \
        "LoadTokenLabel(label_root='labels', num_classes=1000, image_root=None)"


# --------------------------------------------------------------------- errors


def assert_refuses(gradient, match, content=None, label=None):
    """The pipeline fails, and its error names the file."""
    path, label_root = gradient
    file = f'{label_root}/folder/gradient.pt'
    if content is not None:
        with open(file, 'wb') as stream:
            stream.write(content)
    else:
        torch.save(label, file)
    with pytest.raises(ValueError, match=match) as info:
        run(pipeline(CROP, label_root=label_root), path)
    assert file in str(info.value)


def whole():
    """A good map."""
    return torch.stack([torch.randn(3, 5, 4), torch.arange(3.)[:, None, None].expand(3, 5, 4)])


def stored_bytes(value, **options):
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


class Hostile:
    """Writes a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


def test_missing(gradient):
    path, label_root = gradient
    (path.parent / 'other.png').write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match='There is no label map .*folder/other.pt.*generate.py'):
        run(pipeline(CROP, label_root=label_root), path.parent / 'other.png')


UNREADABLE = {
    'empty': b'',
    'one byte': stored_bytes(whole())[:1],
    'half': stored_bytes(whole())[:700],
    'end cut off': stored_bytes(whole())[:-20],
    'half, old format': stored_bytes(whole(), _use_new_zipfile_serialization=False)[:200],
    'page': b'<html><body>Not found</body></html>',
    'text': b'hello world\n',
    'one word': b'missing',
    'pointer': b'version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 12\n',
    'zeros': bytes(1000),
    'picture': b'\x89PNG\r\n\x1a\n' + bytes(40),
    'broken class name': stored_bytes(whole()).replace(b'torch._utils', b'torch\x96_utils'),
    'broken opcode': stored_bytes(whole()).replace(b'ctorch._utils', b'etorch._utils'),
}


@pytest.mark.parametrize('name', UNREADABLE)
def test_unreadable(name, gradient):
    assert_refuses(gradient, 'cannot be read', UNREADABLE[name])


def test_a_folder_is_unreadable(gradient, tmp_path):
    path, label_root = gradient
    (tmp_path / 'labels' / 'folder' / 'gradient.pt').unlink()
    (tmp_path / 'labels' / 'folder' / 'gradient.pt').mkdir()
    with pytest.raises(ValueError, match='cannot be read .IsADirectoryError.*generate'):
        run(pipeline(CROP, label_root=label_root), path)


@pytest.mark.parametrize('as_torch', [False, True])
def test_no_code_runs(as_torch, gradient, tmp_path):
    hostile = Hostile(tmp_path / 'was_run')
    content = stored_bytes(hostile) if as_torch else pickle.dumps(hostile)
    assert_refuses(gradient, 'cannot be read', content)
    assert not (tmp_path / 'was_run').exists()
    # It would have, without care.
    pickle.loads(pickle.dumps(hostile)).close()
    assert (tmp_path / 'was_run').exists()


@pytest.mark.parametrize('label, found', [
    (torch.zeros(3, 3, 5, 4), r'\(3, 3, 5, 4\)'),
    (torch.zeros(1, 3, 5, 4), r'\(1, 3, 5, 4\)'),
    (torch.zeros(2, 5, 4), r'\(2, 5, 4\)'),
    (torch.zeros(2, 1, 3, 5, 4), r'\(2, 1, 3, 5, 4\)'),
    (torch.zeros(2, 0, 5, 4), r'\(2, 0, 5, 4\)'),
    (torch.zeros(()), r'\(\)'),
    (dict(label=torch.zeros(2, 3, 5, 4)), 'dict'),
    ([1, 2], 'list'),
    (None, 'NoneType'),
])
def test_wrong_shape(label, found, gradient):
    assert_refuses(gradient, rf'must be a tensor of shape \(2, k, H, W\), but is {found}',
                   label=label)


@pytest.mark.parametrize('value, found', [
    (4., '0 to 4'), (999., '0 to 999'), (-1., '-1 to 2'), (float('nan'), 'nan to nan'),
    (float('inf'), '0 to inf')])
def test_wrong_classes(value, found, gradient):
    label = whole()
    label[1, 2, 3, 1] = value
    assert_refuses(gradient, rf'names classes {found}, but the model has 4 \(num_classes',
                   label=label)


@pytest.mark.parametrize('dtype, num_classes, value, exact', [
    (torch.float32, 4, 1.5, False),
    (torch.float32, 3000, 2999., True),
    (torch.float16, 2048, 2047., True),
    (torch.float16, 2049, 2., False),
    (torch.int16, 3000, 2999., True),
])
def test_classes_must_be_exact(dtype, num_classes, value, exact, gradient):
    path, label_root = gradient
    label = whole()
    label[1, 2, 3, 1] = value
    torch.save(label.to(dtype), f'{label_root}/folder/gradient.pt')
    transform = pipeline(CROP, label_root=label_root)
    transform.transforms[2].num_classes = num_classes
    if exact:
        assert run(transform, path)['data_samples'].token_label[1].max() == value
    else:
        with pytest.raises(ValueError, match='folder/gradient.pt.* classes that are not exact'):
            run(transform, path)


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
def test_scores_that_are_not_finite(value, gradient):
    label = whole()
    label[0, 2, 3, 1] = value
    assert_refuses(gradient, 'scores that are not finite', label=label)


def test_last_class_is_one(gradient):
    path, label_root = gradient
    label = whole()
    label[1, 2] = 3.
    torch.save(label, f'{label_root}/folder/gradient.pt')
    run(pipeline(CROP, label_root=label_root), path)


def test_needs_a_crop_before_it(gradient):
    path, label_root = gradient
    for transforms in ((), (dict(type='RandomResizedCrop', scale=32), )):
        with pytest.raises(ValueError, match='put a ProgressiveRandomResizedCrop before it'):
            run(pipeline(*transforms, label_root=label_root), path)
