# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Mistakes about teachers get a sentence."""
import autoprog_mm  # noqa: F401  isort: skip  (before anything that imports torchvision)

import pytest
import torch
import torch.nn as nn
from mmengine.logging import HistoryBuffer
from mmpretrain.registry import MODELS

from autoprog_mm.token_label.teachers import (
    ClassifierCells,
    DenseTeacher,
    ImageReader,
    TimmCells,
    build_teacher,
)
from tests.test_token_label.test_teachers.models import (
    CLASSES,
    MEAN,
    STD,
    classifier,
    linear_head,
    save,
    timm_model,
    vit,
    write_config,
)


class Bomb:

    def __reduce__(self):
        return _explode, ()


def _explode():
    pytest.exit('code of a checkpoint has run')


@pytest.mark.parametrize('options', [{}, dict(checkpoint='a.pth', pretrained=True)])
def test_a_teacher_needs_weights_from_one_place(options):
    with pytest.raises(ValueError, match="'timm:resnet18' needs weights.*--checkpoint.*--pretr"):
        build_teacher('timm:resnet18', **options)


BAD_FILES = {
    'code': (lambda path: torch.save(dict(state_dict=Bomb()), path), 'has no weights'),
    # As mmengine's own CheckpointHook saves them.
    'log': (lambda path: torch.save(
        dict(state_dict={}, message_hub=HistoryBuffer([1.], [1])), path), 'has no weights'),
    'text': (lambda path: open(path, 'w').write('hello'), 'is no whole checkpoint'),
    'bytes': (lambda path: open(path, 'wb').write(b'\x00\xff'), 'is no whole checkpoint'),
    'empty': (lambda path: open(path, 'w').close(), 'is no whole checkpoint'),
    'missing': (lambda path: None, 'there is no file'),
    'other': (lambda path: torch.save(dict(state_dict=dict(a=1)), path), 'has no weights'),
    'list': (lambda path: torch.save([torch.zeros(1)], path), 'has no weights'),
}


@pytest.mark.parametrize('kind', BAD_FILES)
def test_bad_checkpoints_get_a_clear_error(tmp_path, kind):
    write, message = BAD_FILES[kind]
    path = str(tmp_path / 'weights.pth')
    write(path)
    with pytest.raises(ValueError, match=f'weights.pth.*{message}|{message}.*weights.pth'):
        build_teacher('timm:resnet18', path, num_classes=2)


def test_weights_that_do_not_fit_are_named(tmp_path):
    config = write_config(tmp_path, vit())
    state = classifier(**vit()).state_dict()
    state['more'] = state.pop('backbone.cls_token')
    path = str(tmp_path / 'weights.pth')
    torch.save(state, path)
    with pytest.raises(ValueError, match='does not fit.*config.py.*Missing.*backbone.cls_token') \
            as error:
        build_teacher(config, path)
    assert '"more"' in str(error.value)

    path = save(timm_model('resnet18'), tmp_path)
    with pytest.raises(ValueError, match='with 4 classes .--num-classes.*fc.weight'):
        build_teacher('timm:resnet18', path, num_classes=4)
    with pytest.raises(ValueError, match='--num-classes is needed'):
        build_teacher('timm:resnet18', path)


@pytest.mark.parametrize('name, message', [
    ('timm:resnet8', "no model 'resnet8'; perhaps resnet"),
    ('mmpretrain:resnet8', 'Failed to find model "resnet8"'),
    ('gone.py', "'gone.py' is none of these"),
    ('resnet18', 'timm:<model>, mmpretrain:<model>'),
])
def test_unknown_teachers_get_a_clear_error(tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        build_teacher(name, save(nn.Linear(2, 2), tmp_path), num_classes=2)


def bare(model, size=32, **preprocess):
    preprocessor = MODELS.build(dict(type='ClsDataPreprocessor', mean=MEAN, std=STD, **preprocess))
    cells = TimmCells(model) if isinstance(model, TimmLike) else ClassifierCells(model)
    return DenseTeacher(cells, preprocessor, ImageReader(size), '')


class TimmLike(nn.Module):
    """Gives the features that it is told to."""

    def __init__(self, features):
        super().__init__()
        self.features = features

    def forward_features(self, x):
        return self.features


@pytest.mark.parametrize('features, message', [
    (torch.zeros(1, 8), r'no grid of features: it gives a tensor of shape \(1, 8\)'),
    ([torch.zeros(1, 8)], 'no grid of features: it gives a list'),
    (torch.zeros(1, 15, 8), '15 tokens, which are not the cells of a square grid'),
    (torch.zeros(1, 0, 8), '0 tokens, which are not'),
    (torch.zeros(1, 8, 4, 4), 'cannot score single cells of images of 32 x 32 pixels'),
])
def test_a_timm_teacher_without_grid_gets_a_clear_error(features, message):
    with pytest.raises(ValueError, match=message):
        bare(TimmLike(features))


@pytest.mark.parametrize('settings, message', [
    (dict(backbone=dict(type='LeNet5', num_classes=CLASSES), head=dict(type='ClsHead'),
          data_preprocessor=dict()), 'cannot score single cells'),
    (dict(backbone=dict(
        type='TNT', arch=dict(
            embed_dims_outer=16, embed_dims_inner=8, num_layers=1, num_heads_outer=2,
            num_heads_inner=2), img_size=32), head=linear_head(16)),
     r'TNT has no grid of features: it gives a tensor of shape \(1, 16\)'),
    (dict(backbone=dict(type='MobileNetV2'), head=linear_head(1280)), 'no more than one cell'),
    (vit(out_type='raw'), "out_type not 'raw'"),
    (dict(vit(), head=None), 'a classifier with a head'),
])
def test_a_classifier_without_grid_gets_a_clear_error(settings, message):
    with pytest.raises(ValueError, match=message):
        bare(classifier(**settings))


def test_a_padded_image_gets_a_clear_error():
    with pytest.raises(ValueError, match='--img-size 40 is padded to .48, 48.*pad_size_divisor'):
        bare(classifier(**vit()), size=40, pad_size_divisor=16)


@pytest.mark.parametrize('settings, message', [
    (dict(pipeline=[dict(type='LoadImageFromFile')]), '--img-size is needed'),
    (dict(pipeline=[dict(type='Resize', scale=(32, 64))]), r'--img-size is needed.*\(32, 64\)'),
])
def test_config_without_a_square_size_gets_a_clear_error(tmp_path, settings, message):
    weights = save(classifier(**vit()), tmp_path)
    config = write_config(tmp_path, vit(), **settings)
    with pytest.raises(ValueError, match=message):
        build_teacher(config, weights)
    assert build_teacher(config, weights, img_size=40).grid == (5, 5)


def test_configs_of_other_models_get_a_clear_error(tmp_path):
    weights = save(nn.Linear(2, 2), tmp_path)
    path = tmp_path / 'empty.py'
    path.write_text('a = 1\n')
    with pytest.raises(ValueError, match='empty.py has no model'):
        build_teacher(str(path), weights)
    with pytest.raises(ValueError, match='names no weights .load_from.*--checkpoint'):
        build_teacher(write_config(tmp_path, vit()), pretrained=True)
    config = write_config(
        tmp_path,
        dict(
            type='MoCo', backbone=dict(type='ResNet', depth=18), queue_len=8, feat_dim=4,
            neck=dict(type='MoCoV2Neck', in_channels=512, hid_channels=4, out_channels=4),
            head=dict(type='ContrastiveHead', loss=dict(type='CrossEntropyLoss')),
            data_preprocessor=dict(type='SelfSupDataPreprocessor')))
    with pytest.raises(ValueError, match='must be an ImageClassifier.*but is a MoCo'):
        build_teacher(config, weights)
