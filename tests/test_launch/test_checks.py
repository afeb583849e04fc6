# Copyright (c) the autoprog_mm authors. All rights reserved.
import copy
import subprocess

import autoprog_mm  # noqa: F401  (before mmpretrain, which imports torchvision)

# isort: split
import pytest
import torch
from mmengine.config import Config
from mmpretrain.datasets import CustomDataset

from autoprog_mm.launch import (
    check_checkpoint,
    check_datasets,
    check_init_cfg,
    check_work_dir,
)


def with_images(folder, name='0.JPEG'):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b'image')


def imagenet(root, split='train', **options):
    return dict(type='ImageNet', data_root=str(root), split=split, pipeline=[], **options)


def check(dataset):
    cfg = Config(dict(train_dataloader=dict(dataset=dataset), val_dataloader=None))
    before = copy.deepcopy(cfg.to_dict())
    check_datasets(cfg, ('train_dataloader', 'val_dataloader', 'test_dataloader'))
    assert cfg.to_dict() == before


WRAPPERS = [
    (lambda d: d, 'train_dataloader.dataset'),
    (lambda d: dict(type='RepeatDataset', dataset=d, times=2), 'train_dataloader.dataset.dataset'),
    (lambda d: dict(type='ConcatDataset', datasets=[dict(type='MNIST5k', split='test'), d]),
     'train_dataloader.dataset.datasets.1'),
    (lambda d: dict(type='ConcatDataset', datasets=[dict(
        type='ClassBalancedDataset', dataset=d, oversample_thr=0.1)]),
     'train_dataloader.dataset.datasets.0.dataset'),
]


@pytest.mark.parametrize(
    'wrap, key', WRAPPERS, ids=['plain', 'repeat', 'concat', 'concat balanced'])
class TestCheckDatasets:

    def test_good(self, tmp_path, wrap, key):
        with_images(tmp_path / 'train' / 'n01440764')
        check(wrap(imagenet(tmp_path)))

    def test_missing_root(self, tmp_path, wrap, key):
        with pytest.raises(
                ValueError,
                match=rf"^{key}\.data_root: there is no folder '.*nowhere'.*"
                rf'--cfg-options {key}\.data_root='):
            check(wrap(imagenet(tmp_path / 'nowhere')))

    def test_missing_split(self, tmp_path, wrap, key):
        with_images(tmp_path / 'val' / 'n01440764')
        with pytest.raises(ValueError, match=rf"^{key}: there is no folder '.*train'"):
            check(wrap(imagenet(tmp_path)))
        check(wrap(imagenet(tmp_path, split='val')))

    def test_empty_folder(self, tmp_path, wrap, key):
        with_images(tmp_path / 'train' / 'n01440764', name='readme.txt')
        with pytest.raises(ValueError, match=rf"^{key}: the folder '.*train' has no images \(.jpg"):
            check(wrap(imagenet(tmp_path)))

    def test_annotations(self, tmp_path, wrap, key):
        with_images(tmp_path / 'train', name='0.png')
        dataset = imagenet(tmp_path, ann_file='meta/train.txt')
        with pytest.raises(ValueError, match=rf"^{key}\.ann_file: there is no file '.*train.txt'"):
            check(wrap(dataset))
        annotations = tmp_path / 'meta' / 'train.txt'
        annotations.parent.mkdir()
        annotations.touch()
        with pytest.raises(ValueError, match=rf"^{key}\.ann_file: the file '.*' is empty"):
            check(wrap(dataset))
        annotations.write_text('0.png 0\n')
        check(wrap(dataset))


class TestFolders:

    def test_each_of_several(self, tmp_path):
        with_images(tmp_path / 'good' / 'train' / 'a')
        with pytest.raises(ValueError, match=r'datasets\.2\.data_root'):
            check(dict(type='ConcatDataset', datasets=[
                imagenet(tmp_path / 'good'), imagenet(tmp_path / 'good'), imagenet('nowhere')]))

    @pytest.mark.parametrize('options', [
        dict(data_prefix='images'),
        dict(data_prefix=dict(img_path='images')),
        dict(data_root='', data_prefix='images'),
        dict(type='mmpretrain.CustomDataset', data_prefix='images'),
    ])
    def test_prefix(self, tmp_path, monkeypatch, options):
        monkeypatch.chdir(tmp_path)
        dataset = {**dict(type='CustomDataset', data_root=str(tmp_path)), **options}
        with pytest.raises(ValueError, match='there is no folder .*images'):
            check(dataset)
        with_images(tmp_path / 'images' / 'cat', '1.png')
        check(dataset)

    def test_root_alone(self, tmp_path):
        dataset = dict(type='CustomDataset', data_root=str(tmp_path))
        with pytest.raises(ValueError, match='has no images'):
            check(dataset)
        with_images(tmp_path / 'cat', '1.bmp')
        check(dataset)

    @pytest.mark.parametrize('extension', ['.webp', '.WEBP'])
    def test_extensions(self, tmp_path, extension):
        dataset = dict(type='CustomDataset', data_root=str(tmp_path), extensions=[extension])
        with_images(tmp_path / 'cat', '1.png')
        with pytest.raises(ValueError, match='has no images .*webp|has no images .*WEBP'):
            check(dataset)
        with_images(tmp_path / 'cat', '1.webp')
        assert len(CustomDataset(data_root=str(tmp_path), extensions=[extension])) == 1
        check(dataset)

    def test_linked_class_folders(self, tmp_path):
        with_images(tmp_path / 'elsewhere')
        (tmp_path / 'imagenet' / 'train').mkdir(parents=True)
        (tmp_path / 'imagenet' / 'train' / 'n01440764').symlink_to(tmp_path / 'elsewhere')
        assert len(CustomDataset(data_root=str(tmp_path / 'imagenet' / 'train'))) == 1
        check(imagenet(tmp_path / 'imagenet'))

    @pytest.mark.parametrize('dataset', [
        dict(type='MNIST5k', split='train'),
        dict(type='CIFAR10', data_root='nowhere'),
        dict(type='ImageNet', data_root='s3://bucket/imagenet', split='train'),
    ])
    def test_not_looked_at(self, dataset):
        check(dataset)


class TestLabels:
    """What mmpretrain reads without a word, but with other labels."""

    def test_other_classes_to_validate_with(self, tmp_path):
        for folder in ('train/a', 'train/b', 'train/c', 'val/a', 'val/c'):
            with_images(tmp_path / folder)
        loaders = {
            f'{split}_dataloader': dict(dataset=dict(
                type='CustomDataset', data_root=str(tmp_path), data_prefix=split))
            for split in ('train', 'val')}
        # Class c has the label 2 to train with, and 1 to validate with.
        assert CustomDataset(data_root=str(tmp_path), data_prefix='val')[1]['gt_label'] == 1
        with pytest.raises(ValueError, match="^val_dataloader.dataset and train_dataloader.dataset "
                           "have different class folders: 'b' is in one of them only"):
            check_datasets(Config(loaders), tuple(loaders))
        with_images(tmp_path / 'val' / 'b')
        check_datasets(Config(loaders), tuple(loaders))

    @pytest.mark.parametrize('name', ['.ipynb_checkpoints', '__MACOSX'])
    def test_folders_that_are_no_classes(self, tmp_path, name):
        with_images(tmp_path / 'cat')
        (tmp_path / name).mkdir()
        assert CustomDataset(data_root=str(tmp_path)).CLASSES == (name, 'cat')
        with pytest.raises(ValueError, match=rf"takes the folder '.*{name}' for a class. Delete"):
            check(dict(type='CustomDataset', data_root=str(tmp_path)))

    def test_link_to_a_folder_around(self, tmp_path):
        with_images(tmp_path / 'cat')
        (tmp_path / 'cat' / 'loop').symlink_to(tmp_path)
        with pytest.raises(OSError, match='Too many levels of symbolic links'):
            CustomDataset(data_root=str(tmp_path))
        with pytest.raises(ValueError, match="the link '.*loop' leads to a folder around it"):
            check(dict(type='CustomDataset', data_root=str(tmp_path)))

    def test_types_that_are_passed_over(self, tmp_path, log):
        for i, ending in enumerate(('.jpg', '.png', '.webp', '.Tiff', '.webp')):
            with_images(tmp_path / 'cat', f'{i}{ending}')
        dataset = dict(type='CustomDataset', data_root=str(tmp_path))
        assert len(CustomDataset(data_root=str(tmp_path))) == 2
        check(dataset)
        message, = log
        assert f"CustomDataset passes over 3 of 5 images in '{tmp_path}" in message
        assert 'of the types .tiff, .webp. Set train_dataloader.dataset.extensions' in message
        check(dict(dataset, extensions=['.jpg', '.png', '.webp', '.tiff']))
        assert len(log) == 1

    def test_dataset_that_reads_its_own_way(self, tmp_path):
        class OfTable(CustomDataset):
            def load_data_list(self):
                return []

        (tmp_path / 'ann.csv').write_text('file,label\na.png,cat\n')
        check(dict(type=OfTable, data_root=str(tmp_path), ann_file='ann.csv'))
        for split, names in (('train', 'ab'), ('val', 'a')):
            for name in names:
                with_images(tmp_path / split / name, '0.png')
        check_datasets(Config({f'{split}_dataloader': dict(dataset=dict(
            type=OfTable, data_root=str(tmp_path / split))) for split in ('train', 'val')}),
            ('train_dataloader', 'val_dataloader'))

    @pytest.mark.parametrize('lines, wrong', [
        ('a.png 0\nb c.png 1\n', None),
        ('a.png 0\r\nb.png 12\r\n', None),
        ('a.png 0\nb.png\n', 2),
        ('a.png 0\nb.png\t1\n', 2),
        ('a.png 0\n\nb.png 1\n', 2),
        ('a.png 0\nb.png -1\n', 2),
        ('a.png cat\n', 1),
        ('\ufeffa.png 0\n', 1),
    ])
    def test_lines_of_annotations(self, tmp_path, lines, wrong):
        (tmp_path / 'ann.txt').write_text(lines, newline='')
        dataset = dict(type='CustomDataset', data_root=str(tmp_path), ann_file='ann.txt')
        if wrong is None:
            return check(dataset)
        with pytest.raises(ValueError, match=rf"^train_dataloader.dataset.ann_file: line {wrong} "
                           "of '.*ann.txt' must be the path of an image, a space and a label"):
            check(dataset)


class TestCheckWorkDir:

    def test_is_made(self, tmp_path):
        check_work_dir(str(tmp_path / 'a' / 'b'))
        assert list((tmp_path / 'a' / 'b').iterdir()) == []

    def test_a_file_is_there(self, tmp_path):
        (tmp_path / 'file').touch()
        for path in (tmp_path / 'file', tmp_path / 'file' / 'run'):
            message = r"^--work-dir: nothing can be written into '.*file"
            with pytest.raises(ValueError, match=message):
                check_work_dir(str(path))
        with pytest.raises(ValueError, match="^target: nothing can be written into '.*file'"):
            check_work_dir(str(tmp_path / 'file'), 'target')

    @pytest.mark.parametrize('how', ['ro', 'full'])
    def test_no_writing_there(self, tmp_path, how):
        options = 'size=4k' if how == 'full' else 'ro'
        done = subprocess.run(['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', str(tmp_path)],
                              stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            pytest.skip(f'cannot mount: {done.stderr.strip()}')
        try:
            if how == 'full':
                (tmp_path / 'filler').write_bytes(bytes(4096))
            reason = 'No space left' if how == 'full' else 'Read-only file system'
            with pytest.raises(ValueError, match=rf'nothing can be written into .*\({reason}'):
                check_work_dir(str(tmp_path))
        finally:
            subprocess.run(['umount', '-l', str(tmp_path)], check=True)


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / 'a.pth'
    torch.save(dict(state_dict={'backbone.a': torch.ones(1)}), path)
    return str(path)


def test_check_checkpoint(weights, tmp_path):
    for path in (None, weights, 'https://host/a.pth'):
        check_checkpoint('load_from', path)
    with pytest.raises(ValueError, match="^load_from: there is no file 'gone.pth'"):
        check_checkpoint('load_from', 'gone.pth')
    with pytest.raises(ValueError, match="^--resume: '.*a.pth' has no meta and no optimizer and no "
                       'message_hub: it holds weights, as best checkpoints do'):
        check_checkpoint('--resume', weights, resumes=True)
    (tmp_path / 'a.pth').write_bytes(b'half a file')
    for resumes in (False, True):
        with pytest.raises(ValueError, match="^key: '.*a.pth' is no whole checkpoint"):
            check_checkpoint('key', weights, resumes)


def test_check_init_cfg(weights):
    def model(path, prefix=None):
        loaded = dict(type='Pretrained', checkpoint=path, prefix=prefix)
        return Config(dict(model=dict(
            type='ImageClassifier', backbone=dict(type='ElasticDeiT', init_cfg=[
                dict(type='TruncNormal', layer='Linear', std=.02), loaded])))).model

    for part in (model(weights), model(weights, 'backbone'), model(weights, 'backbone.'), None):
        check_init_cfg('model', part)
    with pytest.raises(ValueError, match=r"^model.backbone.init_cfg.1.checkpoint: there is no file "
                       "'gone.pth'"):
        check_init_cfg('model', model('gone.pth'))
    # mmengine has a bare assertion for it.
    with pytest.raises(ValueError, match="begins with 'encoder.'; the first one is 'backbone.a'"):
        check_init_cfg('model', model(weights, 'encoder'))
