# Copyright (c) the autoprog_mm authors. All rights reserved.
import pickle

import autoprog_mm  # noqa: F401  (before mmpretrain, which imports torchvision)

# isort: split
import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmpretrain.datasets import CustomDataset
from mmpretrain.datasets.samplers import RepeatAugSampler
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler

import autoprog_mm.datasets.fixed_batches as fixed_batches_module
from autoprog_mm.datasets import SeededDataset, SeededSampler, seeded_dataloader
from autoprog_mm.datasets.fixed_batches import draw_batches, fixed_batches
from autoprog_mm.datasets.seeded import SeededIndex

NUM_IMAGES = 10
PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='ProgressiveRandomResizedCrop', scale=16, backend='pillow', interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(
        type='ProgressiveRandAugment',
        policies='timm_increasing',
        num_policies=2,
        magnitude_level=9,
        magnitude_std=0.5),
    dict(type='ProgressiveRandomErasing', erase_prob=0.5, mode='rand'),
    dict(type='PackInputs'),
]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp('images')
    for i in range(NUM_IMAGES):
        path = root / f'class_{i % 2}' / f'{i}.jpg'
        path.parent.mkdir(exist_ok=True)
        image = np.random.RandomState(i).randint(0, 256, (30, 40, 3), dtype=np.uint8)
        assert cv2.imwrite(str(path), image)
    return str(root)


def build(folder, num_workers=0, persistent_workers=False, sampler=None, rank=0, seed=0, **kwargs):
    dataset = CustomDataset(data_root=folder, pipeline=PIPELINE)
    if 'batch_sampler' not in kwargs:
        kwargs.update(batch_size=4, sampler=sampler or DefaultSampler(dataset, seed=0))
    loader = DataLoader(
        dataset,
        num_workers=num_workers,
        persistent_workers=persistent_workers,
        collate_fn=pseudo_collate,
        **kwargs)
    return seeded_dataloader(loader, seed=seed, rank=rank)


def samples(batches):
    """(path, pixels) of each sample."""
    return [(sample.img_path, pixels) for batch in batches
            for sample, pixels in zip(batch['data_samples'], batch['inputs'])]


def same(first, second):
    return len(first) == len(second) and all(
        path == other and torch.equal(pixels, other_pixels)
        for (path, pixels), (other, other_pixels) in zip(first, second))


def epochs(loader, sampler, count=2):
    result = []
    for epoch in range(count):
        sampler.set_epoch(epoch)
        result.append(samples(loader))
    return result


class InOrder(SequentialSampler):
    """The same images in the same order in each epoch."""


@pytest.mark.parametrize('options', [
    dict(num_workers=1),
    dict(num_workers=2),
    dict(num_workers=2, persistent_workers=True),
    dict(num_workers=2, prefetch_factor=1),
])
def test_workers_make_no_difference(folder, options):
    expected = epochs(*build(folder))
    # What was drawn before is no part of it.
    np.random.seed(5)
    torch.manual_seed(5)
    result = epochs(*build(folder, **options))
    assert [len(epoch) for epoch in result] == [NUM_IMAGES] * 2
    assert same(result[0], expected[0])
    assert same(result[1], expected[1])


def test_an_epoch_needs_none_before_it(folder):
    loader, sampler = build(folder)
    sampler.set_epoch(1)
    assert same(samples(loader), epochs(*build(folder))[1])


@pytest.mark.parametrize('other', ['epoch', 'rank', 'seed'])
def test_other_epochs_ranks_and_seeds_differ(folder, other):

    def pixels(epoch=0, **kwargs):
        loader, sampler = build(folder, sampler=InOrder(range(NUM_IMAGES)), **kwargs)
        sampler.set_epoch(epoch)
        return dict(samples(loader))

    first, second = pixels(), pixels(**{other: 1})
    assert first.keys() == second.keys() and len(first) == NUM_IMAGES
    assert not any(torch.equal(first[path], second[path]) for path in first)


def test_sets_the_epoch_of_the_other_sampler(folder):
    first, second = epochs(*build(folder))
    assert [path for path, _ in first] != [path for path, _ in second]


def test_repeats_differ(folder):
    repeats = RepeatAugSampler(range(NUM_IMAGES), shuffle=False, num_repeats=3, seed=0)
    loader, _ = build(folder, sampler=repeats)
    result = samples(loader)
    # 10 of the 30: three images thrice, and one once.
    paths = [path for path, _ in result]
    assert [paths.count(path) for path in dict.fromkeys(paths)] == [3, 3, 3, 1]
    for i in range(0, 9, 3):
        a, b, c = (pixels for _, pixels in result[i:i + 3])
        assert not torch.equal(a, b) and not torch.equal(b, c) and not torch.equal(a, c)


class TestSeededSampler:

    # The first 8 bytes of BLAKE2b of "(1, 'epoch', 0, 0, 0)", and so on,
    # halved. If they change, no run can be repeated that was made before.
    SEEDS = [7807677549859381512, 275511722858401789, 8400636333409741729]

    def test_seeds(self):
        sampler = SeededSampler([5, 3, 8], seed=1, rank=0)
        assert list(sampler) == list(zip([5, 3, 8], self.SEEDS))
        assert len(sampler) == 3

    def test_drawing(self):
        sampler = SeededSampler([5, 3, 8], seed=1, rank=0)
        with sampler.drawing([4, 4], 'search', 2):
            drawn = list(sampler)
            assert len(sampler) == 2
        assert [item.index for item in drawn] == [4, 4]
        assert drawn[0].seed == 5734077690526974140  # of "(1, 'search', 2, 0, 0)"
        assert drawn[0].seed != drawn[1].seed
        assert list(sampler) == list(zip([5, 3, 8], self.SEEDS))

    def test_drawing_ends_with_an_error(self):
        sampler = SeededSampler([5, 3, 8], seed=1, rank=0)
        with pytest.raises(KeyError, match='stop'), sampler.drawing([4]):
            raise KeyError('stop')
        assert [item.index for item in sampler] == [5, 3, 8]

    def test_set_epoch_without_one_inside(self):
        sampler = SeededSampler([5, 3, 8], seed=1, rank=0)
        sampler.set_epoch(3)
        assert sampler.epoch == 3
        assert not {item.seed for item in sampler} & set(self.SEEDS)


@pytest.mark.parametrize('workers', [
    dict(),
    dict(num_workers=2, persistent_workers=True),
])
def test_draw_batches(folder, workers):
    indices = [3, 1, 4, 1, 5, 9]
    undisturbed = epochs(*build(folder), count=3)
    fresh = samples(draw_batches(*build(folder), indices, 'search', 0))
    dataset = CustomDataset(data_root=folder, pipeline=PIPELINE)
    assert [path for path, _ in fresh] == [dataset.get_data_info(i)['img_path'] for i in indices]
    assert not torch.equal(fresh[1][1], fresh[3][1])

    loader, sampler = build(folder, **workers)
    sampler.set_epoch(0)
    assert same(samples(loader), undisturbed[0])
    assert same(samples(draw_batches(loader, sampler, indices, 'search', 0)), fresh)
    sampler.set_epoch(1)
    next(iter(loader))  # an epoch that is given up
    assert same(samples(draw_batches(loader, sampler, indices, 'search', 0)), fresh)
    assert not same(samples(draw_batches(loader, sampler, indices, 'search', 1)), fresh)
    assert len(loader) == 3
    assert same(samples(loader), undisturbed[1])
    sampler.set_epoch(2)
    assert same(samples(loader), undisturbed[2])


class Pairs(BatchSampler):
    """Batches of two, each turned round."""

    def __init__(self, sampler):
        super().__init__(sampler, batch_size=2, drop_last=False)

    def __iter__(self):
        for batch in super().__iter__():
            yield batch[::-1]


def test_custom_batch_sampler(folder):
    pairs = Pairs(InOrder(range(NUM_IMAGES)))
    loader, sampler = build(folder, batch_sampler=pairs)
    sampler.set_epoch(0)
    batches = list(loader)
    assert [len(batch['inputs']) for batch in batches] == [2] * 5
    in_order = samples(build(folder, sampler=InOrder(range(NUM_IMAGES)))[0])
    turned = [in_order[i] for i in (1, 0, 3, 2, 5, 4, 7, 6, 9, 8)]
    assert same(samples(batches), turned)
    # The caller's batch sampler still yields plain indices.
    assert next(iter(pairs)) == [1, 0]
    drawn = samples(draw_batches(loader, sampler, [7, 7, 2], 'search', 0))
    assert len({path for path, _ in drawn[:2]}) == 1 and len(drawn) == 3
    assert same(samples(loader), turned)


def test_batch_sampler_without_a_sampler():
    loader = DataLoader(range(4), batch_sampler=[[0, 1], [2, 3]])
    with pytest.raises(ValueError, match='batch_sampler with an attribute `sampler`, but got list'):
        seeded_dataloader(loader, seed=0, rank=0)


def test_options_are_taken_over():
    loader = DataLoader(
        range(7), batch_size=3, drop_last=True, num_workers=2, prefetch_factor=5, timeout=9,
        persistent_workers=True, multiprocessing_context='fork', collate_fn=pseudo_collate)
    new, sampler = seeded_dataloader(loader, seed=0, rank=0)
    assert len(new) == 2
    for name in ('batch_size', 'drop_last', 'num_workers', 'prefetch_factor', 'timeout',
                 'persistent_workers', 'multiprocessing_context', 'collate_fn', 'pin_memory'):
        assert getattr(new, name) == getattr(loader, name), name
    assert new.sampler is sampler


class Named(Dataset):
    metainfo = dict(classes=['a'])

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return index, np.random.randint(1000), torch.randint(1000, ()).item()

    def get_cat_ids(self, index):
        return [index]


class TestSeededDataset:

    def test_draws_follow_the_seed(self):
        dataset = SeededDataset(Named())
        first, again, other = (dataset[SeededIndex(2, seed)] for seed in (7, 7, 8))
        assert first == again
        assert first[0] == other[0] == 2
        assert first[1] != other[1] and first[2] != other[2]

    def test_forwards_attributes(self):
        dataset = SeededDataset(Named())
        assert len(dataset) == 3
        assert dataset.metainfo == dict(classes=['a'])
        assert dataset.get_cat_ids(1) == [1]
        with pytest.raises(AttributeError, match='no_such_thing'):
            dataset.no_such_thing  # noqa: B018
        # torch would fetch whole batches by it, past the seeding.
        assert not hasattr(dataset, '__getitems__')

    def test_pickles(self):
        dataset = pickle.loads(pickle.dumps(SeededDataset(Named())))
        assert dataset[SeededIndex(1, 7)] == SeededDataset(Named())[SeededIndex(1, 7)]
        assert dataset.metainfo == dict(classes=['a'])

    def test_half_built_has_no_dataset(self):
        with pytest.raises(AttributeError, match='dataset'):
            SeededDataset.__new__(SeededDataset).metainfo  # noqa: B018


@pytest.mark.parametrize('ranks, sizes', [
    (1, [4, 4, 2]), (2, [4, 1]), (3, [3]), (4, [2]), (11, [1])])
def test_ranks_score_as_many_batches(folder, monkeypatch, ranks, sizes):
    """Ten images over all ranks, in batches of four; no image twice as long as there are enough."""
    seen = []
    for rank in range(ranks):
        monkeypatch.setattr(fixed_batches_module, 'get_dist_info', lambda r=rank: (r, ranks))
        batches = list(fixed_batches(*build(folder, rank=rank), 1, 5))
        assert [len(batch['data_samples']) for batch in batches] == sizes
        seen += [path for path, _ in samples(batches)]
    assert len(set(seen)) == min(sum(sizes) * ranks, NUM_IMAGES)
