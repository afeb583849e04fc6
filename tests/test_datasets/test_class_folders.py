# Copyright (c) the autoprog_mm authors. All rights reserved.
import hashlib
import os

import cv2
import numpy as np
import pytest
import torch
from mmpretrain.registry import DATASETS

from autoprog_mm.datasets import ClassFolders
from autoprog_mm.datasets.class_images import find_images
from tests.test_datasets.class_folders import names, write


class TestDataset:

    def test_samples(self, tmp_path):
        write(tmp_path, *names('dog', 3), *names('cat', 2))
        dataset = DATASETS.build(dict(
            type='ClassFolders', data_root=str(tmp_path), split='train',
            pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')]))
        assert dataset.metainfo == dict(classes=('cat', 'dog'))
        assert list(dataset.get_gt_labels()) == [0, 1, 1]
        assert not dataset.test_mode
        sample = dataset[2]
        assert sample['inputs'].shape == (3, 8, 10)
        assert sample['data_samples'].gt_label.item() == 1
        assert os.path.dirname(sample['data_samples'].img_path) == str(tmp_path / 'dog')
        val = ClassFolders(data_root=str(tmp_path), split='val')
        assert val.test_mode and list(val.get_gt_labels()) == [0, 1]
        assert 'Split: \tval' in repr(val)

    def test_known_classes(self, tmp_path):
        write(tmp_path, *names('test/dog', 2))
        classes = ['emu', 'cat', 'dog']
        dataset = ClassFolders(data_root=str(tmp_path), split='test', classes=classes)
        assert list(dataset.get_gt_labels()) == [2, 2]
        assert dataset.metainfo == dict(classes=tuple(classes))
        write(tmp_path, *names('test/yak', 1))
        with pytest.raises(ValueError, match="not trained for: 'yak'. It knows 'emu', 'cat'"):
            ClassFolders(data_root=str(tmp_path), split='test', classes=classes)

    def test_at_most_so_many_of_a_class(self, tmp_path):
        """Those whose names have the least SHA-256, so that a subset is in each larger one."""
        write(tmp_path, *names('train/dog', 9), *names('train/cat', 2), *names('val/dog', 1),
              *names('val/cat', 1))
        files = find_images(str(tmp_path), 'train', max_per_class=4).files
        ranked = sorted((hashlib.sha256(name.encode()).hexdigest(), name)
                        for name in names('dog', 9))
        assert files['dog'] == sorted(name for _, name in ranked[:4])
        assert files['cat'] == names('cat', 2)
        assert len(ClassFolders(data_root=str(tmp_path), split='train', max_per_class=1)) == 2
        with pytest.raises(ValueError, match='max_per_class must be an int of at least 1 or None'):
            ClassFolders(data_root=str(tmp_path), split='train', max_per_class=0)

    def test_others_of_a_class(self, tmp_path):
        """A pair goes on, in the same order, where a number ends."""
        write(tmp_path, *names('train/dog', 9), *names('train/cat', 5), *names('val/dog', 1),
              *names('val/cat', 1))
        ranked = {name: sorted(names(name, count), key=lambda file: hashlib.sha256(
            file.encode()).hexdigest()) for name, count in (('dog', 9), ('cat', 5))}
        for pair in ((4, 7), [4, 7]):  # as a config has it, and --cfg-options
            files = find_images(str(tmp_path), 'train', max_per_class=pair).files
            assert files == {name: sorted(ranked[name][4:7]) for name in ('cat', 'dog')}
        assert find_images(str(tmp_path), 'train', max_per_class=(0, 2)).files == \
            find_images(str(tmp_path), 'train', max_per_class=2).files
        dataset = ClassFolders(data_root=str(tmp_path), split='train', max_per_class=(4, 7))
        assert list(dataset.get_gt_labels()) == [0, 1, 1, 1]

    @pytest.mark.parametrize('pair, message', [
        ((2, 2), r'max_per_class\[1\] must be an int of at least 3, but got 2'),
        ((-1, 2), r'max_per_class\[0\] must be an int of at least 0, but got -1'),
        ((1.5, 2), r'max_per_class\[0\] must be an int'),
        ((1, 2, 3), r'a pair \(begin, end\) of ints, but got \(1, 2, 3\)'),
        ('12', "a pair .* but got '12'"),
        ((5, 8), "the first 5 images of each class, but in .*train' are no more than that of "
                 "'cat'. Lower its first number"),
    ])
    def test_pairs_that_cannot_work(self, tmp_path, pair, message):
        write(tmp_path, *names('train/dog', 9), *names('train/cat', 5), *names('val/dog', 1),
              *names('val/cat', 1))
        with pytest.raises(ValueError, match=message):
            find_images(str(tmp_path), 'train', max_per_class=pair)

    def test_in_memory(self, tmp_path):
        """Samples are those of LoadImageFromFile, with no file left to read."""
        write(tmp_path, *names('train/dog', 2), *names('val/dog', 2))
        cv2.imwrite(str(tmp_path / 'train/dog/0.jpg'),
                    np.random.RandomState(0).randint(0, 255, (9, 7, 3), np.uint8))
        options = dict(type='ClassFolders', data_root=str(tmp_path), split='train')
        pack = dict(type='PackInputs')
        expected = DATASETS.build(dict(
            **options, pipeline=[dict(type='LoadImageFromFile'), pack]))[0]
        dataset = DATASETS.build(dict(**options, in_memory=True, pipeline=[pack]))
        for file in tmp_path.glob('train/dog/*'):
            file.unlink()
        assert torch.equal(dataset[0]['inputs'], expected['inputs'])
        one, other = dataset[0]['data_samples'], expected['data_samples']
        assert one.metainfo == other.metainfo and one.ori_shape == (9, 7)
        for content in ('text', ''):
            (tmp_path / 'val/dog/0.jpg').write_text(content)
            with pytest.raises(ValueError, match=r"val/dog/0.jpg' cannot be read"):
                DATASETS.build({**options, 'split': 'val', 'in_memory': True})
