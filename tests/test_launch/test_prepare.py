# Copyright (c) the autoprog_mm authors. All rights reserved.
import argparse
import copy
import subprocess
import warnings

import autoprog_mm  # noqa: F401  (before mmpretrain, which imports torchvision)

# isort: split
import pytest
import torch
from mmengine.config import Config
from mmpretrain.datasets import CustomDataset

import autoprog_mm.launch.prepare as launch
from autoprog_mm.launch.prepare import check_datasets, check_work_dir, prepare_config, read_config

TRAIN_ARGS = dict(
    config='configs/prog/deit-s_prog_in1k.py', work_dir=None, resume=None, amp=False,
    no_validate=False, auto_scale_lr=False, no_pin_memory=False, no_persistent_workers=False,
    cfg_options=None, launcher='none')
TEST_ARGS = dict(
    config='configs/prog/deit-s_prog_in1k.py', checkpoint='epoch_1.pth', work_dir=None, amp=False,
    no_pin_memory=False, cfg_options=None, launcher='none')


def make_config(**changes):
    return Config({
        **dict(
            model=dict(type='ImageClassifier', backbone=dict(type='ElasticDeiT')),
            train_dataloader=dict(batch_size=2, num_workers=4, dataset=dict(type='MNIST5k')),
            val_dataloader=dict(batch_size=2, num_workers=0, dataset=dict(type='MNIST5k')),
            test_dataloader=dict(batch_size=2, num_workers=1, dataset=dict(type='MNIST5k')),
            train_cfg=dict(by_epoch=True, max_epochs=3),
            val_cfg=dict(),
            test_cfg=dict(),
            val_evaluator=dict(type='Accuracy'),
            optim_wrapper=dict(type='MoGrowOptimWrapper', optimizer=dict(type='AdamW'))),
        **changes
    })


@pytest.fixture
def device(monkeypatch):

    def set_device(name):
        monkeypatch.setattr(launch, 'get_device', lambda: name)

    set_device('cuda')
    return set_device


@pytest.fixture
def log(monkeypatch):
    messages = []
    monkeypatch.setattr(launch, 'print_log', lambda text, *args: messages.append(text))
    return messages


def prepare(cfg=None, **args):
    return prepare_config(cfg or make_config(), argparse.Namespace(**{**TRAIN_ARGS, **args}))


@pytest.mark.usefixtures('device')
class TestArguments:

    def test_work_dir(self):
        assert prepare().work_dir == './work_dirs/deit-s_prog_in1k'
        assert prepare(make_config(work_dir='of_the_file')).work_dir == 'of_the_file'
        assert prepare(make_config(work_dir=None)).work_dir == './work_dirs/deit-s_prog_in1k'
        cfg = prepare(make_config(work_dir='of_the_file'), work_dir='of_the_command')
        assert cfg.work_dir == 'of_the_command'

    def test_resume(self, tmp_path):
        cfg = prepare(make_config(resume=False, load_from='pretrained.pth'))
        assert cfg.resume is False and cfg.load_from == 'pretrained.pth'
        work_dir = str(tmp_path)
        weights = make_config(resume=False, load_from='pretrained.pth')
        cfg = prepare(weights, resume='auto', work_dir=work_dir)
        assert cfg.resume is False and cfg.load_from == 'pretrained.pth'  # the first start
        (tmp_path / 'epoch_1.pth').touch()
        cfg = prepare(weights, resume='auto', work_dir=work_dir)
        assert cfg.resume is True and cfg.load_from is None
        cfg = prepare(resume='work_dirs/epoch_3.pth')
        assert cfg.resume is True and cfg.load_from == 'work_dirs/epoch_3.pth'

    def test_no_validate(self):
        cfg = prepare(no_validate=True)
        assert cfg.val_cfg is None and cfg.val_dataloader is None and cfg.val_evaluator is None
        assert cfg.test_dataloader is not None
        assert prepare().val_evaluator == dict(type='Accuracy')

    def test_auto_scale_lr(self):
        cfg = prepare(make_config(auto_scale_lr=dict(base_batch_size=8)), auto_scale_lr=True)
        assert cfg.auto_scale_lr == dict(base_batch_size=8, enable=True)
        with pytest.raises(ValueError, match='--auto-scale-lr needs auto_scale_lr=dict'):
            prepare(auto_scale_lr=True)

    @pytest.mark.parametrize('kind, expected', [
        ('MoGrowOptimWrapper', 'AmpMoGrowOptimWrapper'),
        ('OptimWrapper', 'AmpOptimWrapper'),
        (None, 'AmpOptimWrapper'),
    ])
    def test_amp(self, kind, expected):
        wrapper = dict(optimizer=dict(type='AdamW'))
        if kind:
            wrapper['type'] = kind
        cfg = prepare(make_config(optim_wrapper=wrapper), amp=True)
        assert cfg.optim_wrapper == dict(
            type=expected, optimizer=dict(type='AdamW'), loss_scale='dynamic')

    def test_amp_that_is_on_already(self):
        wrapper = dict(type='AmpMoGrowOptimWrapper', dtype='bfloat16', loss_scale=512.)
        assert prepare(make_config(optim_wrapper=wrapper), amp=True).optim_wrapper == wrapper
        wrapper = dict(type='MoGrowOptimWrapper', loss_scale=512.)
        cfg = prepare(make_config(optim_wrapper=wrapper), amp=True)
        assert cfg.optim_wrapper == dict(type='AmpMoGrowOptimWrapper', loss_scale=512.)

    def test_amp_of_an_unknown_wrapper(self):
        with pytest.raises(ValueError, match="--amp needs optim_wrapper.type .*'ApexOptimWrapper'"):
            prepare(make_config(optim_wrapper=dict(type='ApexOptimWrapper')), amp=True)

    def test_arguments_of_the_test_tool(self):
        cfg = make_config(optim_wrapper=None, train_dataloader=None)
        args = argparse.Namespace(**{**TEST_ARGS, 'amp': True, 'launcher': 'slurm'})
        assert prepare_config(cfg, args) is cfg
        assert cfg.launcher == 'slurm'
        assert cfg.train_dataloader is None
        assert cfg.test_dataloader.pin_memory is True


@pytest.mark.usefixtures('device')
class TestDataloaders:

    def test_defaults(self):
        cfg = prepare()
        assert cfg.train_dataloader == dict(
            pin_memory=True,
            collate_fn=dict(type='default_collate'),
            persistent_workers=True,
            batch_size=2,
            num_workers=4,
            dataset=dict(type='MNIST5k'))
        # Without workers, torch refuses persistent ones.
        assert 'persistent_workers' not in cfg.val_dataloader
        assert cfg.test_dataloader.persistent_workers is True

    def test_config_has_priority_over_defaults(self):
        mine = dict(batch_size=2, num_workers=4, pin_memory=False, persistent_workers=False,
                    collate_fn=dict(type='pseudo_collate'))
        assert prepare(make_config(train_dataloader=mine)).train_dataloader == mine

    def test_flags(self):
        cfg = prepare(no_pin_memory=True, no_persistent_workers=True)
        for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            assert cfg[name].pin_memory is False
            assert cfg[name].persistent_workers is False

    def test_workers_switched_off_by_options(self):
        cfg = prepare(cfg_options={'train_dataloader.num_workers': 0})
        assert cfg.train_dataloader.num_workers == 0
        assert cfg.train_dataloader.persistent_workers is False
        assert cfg.test_dataloader.persistent_workers is True


@pytest.mark.usefixtures('device')
class TestOptions:

    def test_merge(self):
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            cfg = prepare(
                make_config(custom_hooks=[dict(type='AutoProgHook', search=dict(epochs=2))]),
                cfg_options={'train_cfg.max_epochs': 9, 'custom_hooks.0.search.epochs': 1})
        assert cfg.train_cfg.max_epochs == 9
        assert cfg.custom_hooks[0].search.epochs == 1

    def test_unknown_key_warns(self):
        with pytest.warns(UserWarning, match='no key "trian_cfg" yet.*check its spelling'):
            cfg = prepare(cfg_options={'trian_cfg.max_epochs': 9})
        assert cfg.trian_cfg.max_epochs == 9
        assert cfg.train_cfg.max_epochs == 3


class TestCpu:

    @pytest.mark.parametrize('kind, expected', [
        ('AmpMoGrowOptimWrapper', 'MoGrowOptimWrapper'),
        ('AmpOptimWrapper', 'OptimWrapper'),
    ])
    def test_full_precision_instead(self, device, log, kind, expected):
        wrapper = dict(
            type=kind, dtype='bfloat16', loss_scale='dynamic', clip_grad=dict(max_norm=5.),
            optimizer=dict(type='AdamW'))
        device('cuda')
        assert prepare(make_config(optim_wrapper=wrapper)).optim_wrapper == wrapper
        assert log == []
        device('cpu')
        assert prepare(make_config(optim_wrapper=wrapper)).optim_wrapper == dict(
            type=expected, clip_grad=dict(max_norm=5.), optimizer=dict(type='AdamW'))
        assert len(log) == 1
        assert f'training in float32 with {expected} instead of {kind}' in log[0]

    def test_amp_flag(self, device, log):
        device('cpu')
        cfg = prepare(amp=True)
        assert cfg.optim_wrapper == dict(type='MoGrowOptimWrapper', optimizer=dict(type='AdamW'))
        assert len(log) == 1

    def test_amp_in_testing(self, device, log):
        device('cpu')
        cfg = prepare(make_config(test_cfg=dict(fp16=True, type='TestLoop')))
        assert cfg.test_cfg == dict(type='TestLoop')
        assert len(log) == 1 and 'testing in float32' in log[0]

    def test_sync_bn(self, device, log, monkeypatch):
        device('cpu')
        assert prepare(make_config(sync_bn='torch')).sync_bn is None
        assert log == []  # in a single process there is nothing to synchronise
        monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: True)
        assert prepare(make_config(sync_bn='torch'), launcher='pytorch').sync_bn is None
        assert len(log) == 1 and 'BatchNorm is not synchronised' in log[0]

    def test_no_pinned_memory(self, device, log):
        device('cpu')
        cfg = prepare(cfg_options={'train_dataloader.pin_memory': True})
        for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            assert cfg[name].pin_memory is False

    def test_nothing_to_replace(self, device, log):
        device('cpu')
        assert prepare().optim_wrapper.type == 'MoGrowOptimWrapper'
        assert log == []

    @pytest.mark.parametrize('name, launcher, initialized, expected', [
        ('cpu', 'pytorch', False, [('gloo', None)]),
        ('cpu', 'pytorch', True, []),
        ('cpu', 'none', False, []),
        ('cuda', 'pytorch', False, []),
    ])
    def test_launcher(self, device, log, monkeypatch, name, launcher, initialized, expected):
        device(name)
        groups = []
        monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: initialized)
        monkeypatch.setattr(
            torch.distributed, 'init_process_group',
            lambda backend, timeout: groups.append((backend, timeout)))
        monkeypatch.setattr(torch.distributed, 'get_rank', lambda: 1)
        monkeypatch.setattr(torch.distributed, 'get_world_size', lambda: 2)
        monkeypatch.setenv('LOCAL_RANK', '1')
        assert prepare(launcher=launcher).launcher == launcher
        assert groups == expected
        assert len(log) == len(expected) and all('rank 1 of 2' in text for text in log)


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


@pytest.mark.usefixtures('device')
class TestSchedule:

    @pytest.mark.parametrize('kind, end, warned', [
        ('CosineAnnealingLR', 3, False), ('CosineAnnealingLR', 100, True), ('PolyLR', 2, True),
        ('LinearLR', 1, False)])
    def test_learning_rate_of_other_epochs_warns(self, log, kind, end, warned):
        schedulers = [dict(type='LinearLR', end=1), dict(type=kind, begin=1, end=end)]
        prepare(make_config(param_scheduler=schedulers))
        assert len(log) == warned
        if warned:
            assert f'falls until epoch {end}. Set param_scheduler.1.end=3' in log[0]

    def test_steps_are_not_epochs(self, log):
        prepare(make_config(param_scheduler=[dict(type='PolyLR', end=1000, by_epoch=False)]))
        prepare(make_config(param_scheduler=dict(type='PolyLR', end=3)))
        prepare(make_config(param_scheduler=None))
        assert log == []


@pytest.mark.parametrize('text, reason', [
    ("_base_ = './gone.py'", r'No such file .*gone\.py'), ('a = 1\nb = (', 'never closed.*line 2')])
def test_config_that_cannot_be_read(tmp_path, text, reason):
    path = tmp_path / 'mine.py'
    with pytest.raises(ValueError, match="^config: there is no file '.*mine.py'"):
        read_config(str(path))
    path.write_text(text)
    with pytest.raises(ValueError, match=f"^config: '.*mine.py' cannot be read: .*{reason}"):
        read_config(str(path))
