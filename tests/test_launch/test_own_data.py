# Copyright (c) the autoprog_mm authors. All rights reserved.
import os
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import DATASETS, HOOKS

from autoprog_mm.launch.own_data import fill_custom_config
from tests.micro import run
from tests.test_launch.own_folders import CONFIG, ROOT, prepare, read, write_images
from tests.test_tools import run_tool


@pytest.fixture
def folder(tmp_path):
    return write_images(tmp_path / 'pictures', ['cat', 'dog', 'emu'])


class TestFillIn:

    def test_all_that_is_open(self, folder, tmp_path, capsys):
        cfg = prepare(CONFIG, tmp_path, data_root=folder)
        # Of ten images of a class one is held out.
        assert cfg.classes == ['cat', 'dog', 'emu']
        assert cfg.model.head.num_classes == cfg.model.data_preprocessor.num_classes == 3
        assert (cfg.image_size, cfg.patch_size) == (32, 4)
        assert (cfg.model.backbone.img_size, cfg.model.backbone.patch_size) == (32, 4)
        assert cfg.custom_hooks[0].resolution_divisor == 4
        for pipeline in (cfg.train_pipeline, cfg.train_dataloader.dataset.pipeline):
            assert pipeline[0].scale == 32
        for pipeline in (cfg.test_pipeline, cfg.val_dataloader.dataset.pipeline,
                         cfg.test_dataloader.dataset.pipeline):
            assert pipeline[1].scale == pipeline[2].crop_size == 32
        assert cfg.train_dataloader.batch_size == 8
        assert cfg.optim_wrapper.optimizer.lr == 5e-4
        assert [(s.get('begin'), s.end) for s in cfg.param_scheduler] == [(None, 5), (5, 100)]
        for name in ('train', 'val', 'test'):
            dataset = cfg[f'{name}_dataloader'].dataset
            assert (dataset.data_root, dataset.classes) == (folder, cfg.classes)
        assert capsys.readouterr().out.startswith(f'''Your images
  folder        {folder}
  classes       3: 'cat', 'dog', 'emu'
  to train      27 images, 9 of each class
  to validate   3 images, 1 of each class, held out by val_share=0.1
  size          32 pixels (short sides are 30 in the middle), in patches of 4
  batch         8 images, 3 steps an epoch
  learning rate 0.0005
  epochs        100
  stages        4, for 100 epochs
  searches      of 2 epochs each
  passed over   nothing
''')
        assert fill_custom_config(cfg, {}) and 'None' not in str(
            [cfg.model, cfg.train_dataloader, cfg.param_scheduler, cfg.optim_wrapper])

    def test_images_to_train_and_to_validate_with_are_the_same(self, folder, tmp_path, capsys):
        (tmp_path / 'splits').mkdir()
        for split in ('train', 'val'):
            (tmp_path / 'splits' / split).symlink_to(folder)
        prepare(CONFIG, tmp_path, data_root=str(tmp_path / 'splits'))
        assert '  take care     by links, images to train with are also' in capsys.readouterr().out
        prepare(CONFIG, tmp_path, data_root=folder)
        assert 'take care' not in capsys.readouterr().out

    @pytest.mark.parametrize('max_epochs, scheduled', [
        (1, [(None, 1), (0, 1)]), (8, [(None, 1), (1, 8)]), (30, [(None, 3), (3, 30)]),
        (300, [(None, 5), (5, 300)])])
    def test_schedule_follows_epochs(self, folder, tmp_path, max_epochs, scheduled):
        cfg = prepare(CONFIG, tmp_path, data_root=folder, train_cfg__max_epochs=max_epochs)
        assert [(s.get('begin'), s.end) for s in cfg.param_scheduler] == scheduled

    @pytest.mark.parametrize('max_epochs, speedup, stages, search, rows', [
        (1, None, 1, 2, ['stages        1, for 1 epoch']),
        (2, None, 2, None, ['stages        2, for 2 epochs',
                            'searches      none, for 2 epochs: the manual schedule']),
        (8, None, 4, 1, ['stages        4, for 8 epochs', 'searches      of 1 epoch each']),
        (16, None, 4, 2, ['stages        4, for 16 epochs', 'searches      of 2 epochs each']),
        (8, 3., 2, None, ['stages        2, for 8 epochs at a speedup of 3',
                          'searches      none, for 8 epochs at a speedup of 3: the manual sch']),
    ])
    def test_stages_and_searches_follow_epochs(self, folder, tmp_path, capsys, max_epochs, speedup,
                                               stages, search, rows):
        """As many as there is room for; nothing that would only be refused when the run begins."""
        cfg = prepare(CONFIG, tmp_path, data_root=folder, train_cfg__max_epochs=max_epochs,
                      custom_hooks__0__speedup=speedup)
        hook = cfg.custom_hooks[0]
        assert hook.num_stages == stages
        if stages > 1:
            assert (hook.search and hook.search.epochs) == search
        output = capsys.readouterr().out
        assert all(f'\n  {row}' in output for row in rows)

    def test_stages_and_searches_that_are_set_stay(self, folder, tmp_path, capsys):
        cfg = prepare(CONFIG, tmp_path, data_root=folder, train_cfg__max_epochs=2,
                      custom_hooks__0__num_stages=3, custom_hooks__0__search__epochs=7)
        assert (cfg.custom_hooks[0].num_stages, cfg.custom_hooks[0].search.epochs) == (3, 7)
        assert '\n  stages' not in capsys.readouterr().out
        cfg = prepare(CONFIG, tmp_path, data_root=folder, custom_hooks__0__speedup=2.,
                      custom_hooks__0__stage_shares=[1, 2])
        assert cfg.custom_hooks[0].num_stages == 2
        with pytest.raises(ValueError, match='speedup must be a number of at least 1, but got 0.5'):
            prepare(CONFIG, tmp_path, data_root=folder, custom_hooks__0__speedup=0.5)
        with pytest.raises(ValueError, match="num_stages must be .* but got 'all'"):
            prepare(CONFIG, tmp_path, data_root=folder, custom_hooks__0__num_stages='all')
        cfg = prepare(CONFIG, tmp_path, data_root=folder, custom_hooks__0__speedup=2.,
                      custom_hooks__0__stage_shares=3)
        with pytest.raises(ValueError, match='stage_shares must be 4 numbers'):
            HOOKS.build(cfg.custom_hooks[0])

    def test_what_is_set_stays(self, folder, tmp_path):
        cfg = prepare(
            CONFIG, tmp_path, data_root=folder, image_size=96, val_share=0.5,
            train_dataloader__batch_size=3, optim_wrapper__optimizer__lr=0.1,
            param_scheduler__1__end=50, custom_hooks__0__resolution_divisor=16)
        assert (cfg.model.backbone.img_size, cfg.model.backbone.patch_size) == (96, 8)
        assert cfg.train_dataloader.dataset.pipeline[0].scale == 96
        assert cfg.val_dataloader.dataset.val_share == 0.5
        assert cfg.train_dataloader.batch_size == 3
        assert cfg.optim_wrapper.optimizer.lr == 0.1
        assert cfg.param_scheduler[1].end == 50
        assert cfg.custom_hooks[0].resolution_divisor == 16
        cfg = prepare(CONFIG, tmp_path, data_root=folder, patch_size=8,
                      model__backbone__img_size=64)
        assert (cfg.image_size, cfg.train_dataloader.dataset.pipeline[0].scale) == (64, 64)
        assert cfg.model.backbone.patch_size == 8

    def test_processes_share_the_images(self, folder, tmp_path, monkeypatch):
        monkeypatch.setenv('WORLD_SIZE', '4')
        monkeypatch.setattr('autoprog_mm.launch.device._connect', lambda *_: None)
        cfg = prepare(CONFIG, tmp_path, 'pytorch', data_root=folder)
        assert cfg.train_dataloader.batch_size == 6  # of 27 / 4
        with pytest.raises(ValueError, match='batch_size is 8 in each of 4 processes, but there '
                           'are only 27 images'):
            prepare(CONFIG, tmp_path, 'pytorch', data_root=folder, train_dataloader__batch_size=8)
        prepare(CONFIG, tmp_path, 'pytorch', data_root=folder, train_dataloader__batch_size=7)

    def test_saved_config_stays_and_takes_other_images(self, folder, tmp_path):
        cfg = prepare(CONFIG, tmp_path, data_root=folder)
        cfg.dump(tmp_path / 'saved.py')
        again = prepare(tmp_path / 'saved.py', tmp_path)
        assert again.to_dict() == cfg.to_dict()
        other = write_images(tmp_path / 'other', ['emu', 'cat', 'dog'], size=(200, 200))
        cfg = prepare(tmp_path / 'saved.py', tmp_path, data_root=other)
        assert cfg.train_dataloader.dataset.data_root == other and cfg.image_size == 32
        write_images(Path(other), ['yak'])
        with pytest.raises(ValueError, match="classes: the config is for 'cat', 'dog', 'emu', but"
                           " '.*other' has 'cat', 'dog', 'emu', 'yak'. Set classes=None"):
            prepare(tmp_path / 'saved.py', tmp_path, data_root=other)

    def test_other_configs_stay(self, tmp_path):
        cfg = Config.fromfile(ROOT / 'configs' / 'autoprog' / 'deit-t_in1k.py')
        before = cfg.to_dict()
        assert fill_custom_config(cfg, {}) == '' and cfg.to_dict() == before


MISTAKES = {
    'no folder': (dict(data_root=None), r'^data_root is not set\. .*--cfg-options data_root='),
    'number': (dict(data_root=2024), r'^data_root must be the path .* 2024\. Write .* \./2024'),
    'list': (dict(data_root=['a', 'b']), r"^data_root must be the path .* \['a', 'b'\]"),
    'batch': (dict(train_dataloader__batch_size=28),
              '^train_dataloader.batch_size is 28, but there are only 27 images'),
    'classes': (dict(model__head__num_classes=1000),
                '^model.head.num_classes is 1000, but there are 3 classes'),
    'two sizes': (dict(image_size=64, model__backbone__img_size=32),
                  r'^image_size \(64\) and model.backbone.img_size \(32\) differ'),
    'size': (dict(image_size='large'), "^image_size must be an int .* or None, but got 'large'"),
    'patch': (dict(patch_size=0), '^patch_size must be an int of at least 1 or None, but got 0'),
}


@pytest.mark.parametrize('name', MISTAKES)
def test_mistakes_in_settings(folder, tmp_path, name):
    options, message = MISTAKES[name]
    with pytest.raises(ValueError, match=message):
        prepare(CONFIG, tmp_path, **dict(dict(data_root=folder), **options))


class TestMistakesInTheFolder:

    def test_one_class(self, tmp_path):
        write_images(tmp_path / 'a', ['pictures/cat', 'pictures/dog'])
        with pytest.raises(ValueError, match="one class only, 'pictures', .* If the classes are "
                           'the folders in there, set data_root=.*a/pictures'):
            prepare(CONFIG, tmp_path, data_root=str(tmp_path / 'a'))
        write_images(tmp_path / 'b', ['cat'])
        with pytest.raises(ValueError, match="only, 'cat', so there is nothing to tell apart.$"):
            prepare(CONFIG, tmp_path, data_root=str(tmp_path / 'b'))

    @pytest.mark.parametrize('here, there', [('train', 'val'), ('val', 'train')])
    def test_classes_differ(self, tmp_path, here, there):
        root = write_images(tmp_path / 'a', [f'{s}/{c}' for s in ('train', 'val') for c in 'xy'])
        write_images(tmp_path / 'a', [f'{here}/z'])
        with pytest.raises(ValueError, match=f"'z' is in '.*{here}', but not in '.*{there}'"):
            prepare(CONFIG, tmp_path, data_root=root)

    def test_images_that_cannot_be_read(self, folder, tmp_path):
        val = prepare(CONFIG, tmp_path, data_root=folder).val_dataloader.dataset
        held_out = [Path(folder, name, f'{i}.png') for name in val.classes for i in range(10)]
        for path in held_out:
            path.write_bytes(path.read_bytes()[:20])
        with pytest.raises(ValueError, match='3 of the images to validate or test with cannot be '
                           "read: '.*png'"):
            prepare(CONFIG, tmp_path, data_root=folder)
        cfg = read(CONFIG)
        cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
        with pytest.raises(ValueError, match='none of 27 images can be read, such as'):
            prepare(cfg, tmp_path, data_root=folder)


SMALL = f"""
_base_ = {str(CONFIG)!r}
model = dict(
    backbone=dict(arch=dict(
        _delete_=True, embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=32)),
    head=dict(in_channels=16))
"""


def test_from_a_folder_to_a_picture(jpeg_root, tmp_path, capsys):
    """Train, test and infer; the folder is all that is given."""
    from mmpretrain import ImageClassificationInferencer
    folder = tmp_path / 'pictures'
    folder.mkdir()
    for i in range(4):
        (folder / f'class_{i}').symlink_to(jpeg_root / 'train' / f'class_{i}')
    small = tmp_path / 'small' / 'small.py'
    small.parent.mkdir()
    small.write_text(SMALL)
    cfg = prepare(
        small, tmp_path / 'run', data_root=str(folder), image_size=32, patch_size=8,
        train_cfg__max_epochs=2, train_dataloader__dataset__indices=8,
        custom_hooks__0__num_stages=2, custom_hooks__0__search=None,
        train_dataloader__num_workers=0, val_dataloader__num_workers=0)
    runner = run(cfg)
    assert runner.iter == 2
    assert runner.model.backbone.awake_subnet.resolution == 32
    best = runner.message_hub.get_scalar('val/accuracy/top1').current()

    # The config, which leaves them open, takes sizes and classes from the checkpoint.
    checkpoint = tmp_path / 'run' / 'epoch_2.pth'
    saved, = (tmp_path / 'run').glob('*.py')
    for config in (small, saved):
        out = tmp_path / f'{config.parent.name}.json'
        capsys.readouterr()
        run_tool(ROOT / 'tools' / 'test.py', config, checkpoint, '--work-dir',
                 tmp_path / 'test', '--out', out, '--out-item', 'metrics', '--cfg-options',
                 f'data_root={folder}', 'test_dataloader.num_workers=0')
        assert f'{{"accuracy/top1": {best}}}' == out.read_text()
        assert '32 pixels, in patches of 8' in capsys.readouterr().out

    inferencer = ImageClassificationInferencer(str(saved), pretrained=str(checkpoint))
    result = inferencer(str(jpeg_root / 'val' / 'class_2' / '0.jpg'))[0]
    assert result['pred_class'] == f'class_{result["pred_label"]}'
    assert result['pred_scores'].shape == (4, )


def test_names_that_are_not_utf8(folder, tmp_path):
    """OpenCV crashed at them; images of such names are used, a folder is refused."""
    for name in ('cat', 'dog', 'emu'):
        for i in range(10):
            os.rename(f'{folder}/{name}/{i}.png', os.fsencode(folder) + f'/{name}/'.encode() +
                      b'caf\xe9%d.png' % i)
    cfg = prepare(CONFIG, tmp_path, data_root=folder)
    assert cfg.image_size == 32
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        sample = DATASETS.build(cfg.val_dataloader.dataset)[0]
    assert sample['inputs'].shape == (3, 32, 32)
    with open(sample['data_samples'].img_path, 'w') as file:
        file.write('no image')
    with pytest.raises(ValueError, match=r"1 of the images .* cannot be read: '.*caf\\udce9"):
        prepare(CONFIG, tmp_path, data_root=folder)
    os.rename(folder, os.fsencode(tmp_path) + b'/caf\xe9')
    with pytest.raises(ValueError, match=r"folder '.*caf\\udce9' is not UTF-8. Rename it"):
        prepare(CONFIG, tmp_path, data_root=f'{tmp_path}/caf\udce9')


def test_images_that_pillow_thinks_too_large(folder, tmp_path, monkeypatch):
    monkeypatch.setattr('PIL.Image.MAX_IMAGE_PIXELS', 500)  # refuses twice as many; they have 1200
    cfg = prepare(CONFIG, tmp_path, data_root=folder)
    assert cfg.image_size == 32
