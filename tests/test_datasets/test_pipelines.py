# Copyright (c) the autoprog_mm authors. All rights reserved.
import autoprog_mm  # noqa: F401  (before mmpretrain, which imports torchvision)

# isort: split
import pytest
from mmengine.dataset import BaseDataset, ClassBalancedDataset, ConcatDataset, RepeatDataset
from mmengine.registry import DefaultScope
from mmengine.runner.runner import _SlicedDataset
from mmpretrain.registry import DATASETS, TRANSFORMS
from torch.utils.data import Dataset

from autoprog_mm.datasets import SeededDataset
from autoprog_mm.datasets.pipelines import ProgressivePipelines, find_pipelines

SHALLOW = [dict(type='ProgressiveRandomResizedCrop', scale=32), dict(type='PackInputs')]
NESTED = [
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='RandomApply',
        prob=0.5,
        transforms=[
            dict(
                type='RandomChoice',
                transforms=[
                    [dict(type='ProgressiveRandomErasing', erase_prob=0.25)],
                    [dict(type='ProgressiveRandomResizedCrop', scale=32),
                     dict(type='ColorJitter')],
                ])
        ]),
    dict(
        type='ProgressiveRandAugment',
        policies=[dict(type='Invert'), dict(type='Equalize')],
        num_policies=1,
        magnitude_level=9),
]


@DATASETS.register_module()
class PipelinesDataset(BaseDataset):
    METAINFO = dict(classes=('even', 'odd'))

    def __init__(self, pipeline):
        # As within a Runner, so that names of mmpretrain's transforms are known.
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            super().__init__(pipeline=[TRANSFORMS.build(transform) for transform in pipeline])

    def load_data_list(self):
        return [dict(index=i) for i in range(4)]

    def get_cat_ids(self, index):
        return [index % 2]


def names(dataset):
    return [[type(transform).__name__ for transform in pipeline]
            for pipeline in find_pipelines(dataset)]


CROP_NAMES = ['Compose', 'ProgressiveRandomResizedCrop', 'PackInputs']


def test_plain():
    dataset = PipelinesDataset(SHALLOW)
    assert names(dataset) == [CROP_NAMES]
    # The very transforms that run, not copies.
    assert find_pipelines(dataset)[0][1] is dataset.pipeline.transforms[0]


def test_nested_transforms():
    # The Compose between a container and its transforms is none to look for.
    found = [name for name in names(PipelinesDataset(NESTED))[0] if name != 'Compose']
    assert found == [
        'RandomFlip', 'RandomApply', 'RandomChoice', 'ProgressiveRandomErasing',
        'ProgressiveRandomResizedCrop', 'ColorJitter', 'ProgressiveRandAugment', 'Invert',
        'Equalize'
    ]


def test_concat():
    flip = [dict(type='RandomFlip', prob=0.5)]
    dataset = ConcatDataset([PipelinesDataset(SHALLOW), PipelinesDataset(flip)])
    assert names(dataset) == [CROP_NAMES, ['Compose', 'RandomFlip']]


@pytest.mark.parametrize('wrap', [
    lambda dataset: RepeatDataset(dataset, times=2),
    lambda dataset: ClassBalancedDataset(dataset, oversample_thr=1e-3),
    lambda dataset: ConcatDataset([dataset]),
    lambda dataset: SeededDataset(dataset),
    lambda dataset: _SlicedDataset(dataset, 2),
    lambda dataset: _SlicedDataset(RepeatDataset(dataset, times=2), 2),
    lambda dataset: _SlicedDataset(ConcatDataset([dataset]), 2),
    lambda dataset: SeededDataset(_SlicedDataset(dataset, 2)),
    lambda dataset: SeededDataset(RepeatDataset(dataset, times=2)),
], ids=['repeat', 'balanced', 'concat', 'seeded', 'sliced', 'sliced repeat', 'sliced concat',
        'seeded sliced', 'seeded repeat'])
def test_wrappers(wrap):
    dataset = PipelinesDataset(SHALLOW)
    pipelines = find_pipelines(wrap(dataset))
    assert len(pipelines) == 1
    assert pipelines[0][1] is dataset.pipeline.transforms[0]


LEAF = dict(type='PipelinesDataset', pipeline=SHALLOW)


@pytest.mark.parametrize('inner, count', [
    (dict(type='ConcatDataset', datasets=[LEAF, LEAF]), 2),
    (dict(type='RepeatDataset', dataset=LEAF, times=2), 1),
    (dict(type='ClassBalancedDataset', dataset=LEAF, oversample_thr=1e-3), 1),
], ids=['concat', 'repeat', 'balanced'])
def test_wrappers_in_a_repeat(inner, count):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        dataset = DATASETS.build(dict(type='RepeatDataset', dataset=inner, times=2))
    assert names(dataset) == [CROP_NAMES] * count


def test_no_pipeline():

    class Plain(Dataset):
        pass

    assert find_pipelines(Plain()) == [[]]


def test_all_pipelines_are_set_at_once():
    shallow, nested = PipelinesDataset(SHALLOW), PipelinesDataset(NESTED)
    pipelines = ProgressivePipelines(ConcatDataset([shallow, nested]), 32)
    assert pipelines.full_strength == dict(rand_augment=9, random_erasing=0.25)
    pipelines.set_resolution(16)
    pipelines.set_strength(dict(rand_augment=4, random_erasing=0., drop_path=0.))
    transforms = {
        type(t).__name__: t for pipeline in find_pipelines(nested) for t in pipeline}
    assert transforms['ProgressiveRandomResizedCrop'].resolution == 16
    assert shallow.pipeline.transforms[0].resolution == 16
    assert transforms['ProgressiveRandAugment'].magnitude_level == 4
    assert transforms['ProgressiveRandomErasing'].erase_prob == 0


def test_pipelines_of_different_strength():
    augment = dict(NESTED[-1], magnitude_level=5)
    datasets = [PipelinesDataset(NESTED), PipelinesDataset(SHALLOW + [augment])]
    with pytest.raises(ValueError, match=r'the same magnitude_level, but got \[5.*, 9.*\]'):
        ProgressivePipelines(ConcatDataset(datasets), 32)
