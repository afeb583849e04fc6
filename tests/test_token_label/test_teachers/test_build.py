# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Teachers of each kind are built."""
import autoprog_mm  # noqa: F401  isort: skip  (before anything that imports torchvision)

import cv2
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torchvision import transforms

from autoprog_mm.token_label.teachers import (
    TimmCells,
    build_teacher,
    load_weights,
    weights_fingerprint,
)
from tests.test_token_label.test_teachers.models import (
    CLASSES,
    MEAN,
    STD,
    classifier,
    close,
    images,
    linear_head,
    randomize,
    resnet18,
    save,
    timm_model,
    vit,
    volo,
    write_config,
)


def test_timm_teacher_reads_and_normalises_as_timm(tmp_path):
    """Of the same pixels timm's own transforms make the same input."""
    pixels = np.random.RandomState(0).randint(0, 256, (70, 50, 3)).astype(np.uint8)  # RGB
    Image.fromarray(pixels).save(tmp_path / 'image.png')
    teacher = build_teacher(
        'timm:resnet18', save(timm_model('resnet18'), tmp_path), num_classes=CLASSES, img_size=64)
    assert teacher.img_size == 64 and teacher.grid == (2, 2) and teacher.num_classes == CLASSES
    assert not any(module.training for module in teacher.modules())
    read = teacher.reader(str(tmp_path / 'image.png'))
    assert read.shape == (3, 64, 64) and read.dtype == torch.uint8
    data = timm.data.resolve_data_config(model=teacher.cells.model)
    assert data['interpolation'] == 'bicubic'
    expected = transforms.Compose([
        transforms.Resize((64, 64), transforms.InterpolationMode.BICUBIC),
        transforms.ToTensor(),
        transforms.Normalize(data['mean'], data['std'])
    ])(Image.fromarray(pixels))
    close(teacher.preprocess(read[None])[0], expected)


@pytest.mark.parametrize('to_rgb', [True, False])
def test_config_teacher_reads_and_normalises_as_its_config(tmp_path, to_rgb):
    pixels = np.random.RandomState(0).randint(0, 256, (70, 50, 3)).astype(np.uint8)  # BGR
    cv2.imwrite(str(tmp_path / 'image.png'), pixels)
    settings = resnet18(data_preprocessor=dict(mean=MEAN, std=STD, to_rgb=to_rgb))
    config = write_config(
        tmp_path, settings, pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='mmpretrain.ResizeEdge', scale=80, backend='pillow', interpolation='bicubic'),
            dict(type='CenterCrop', crop_size=64),
            dict(type='PackInputs')
        ])
    teacher = build_teacher(config, save(classifier(**settings), tmp_path))
    assert teacher.img_size == 64
    resized = np.asarray(Image.fromarray(pixels).resize((64, 64), Image.BICUBIC)).astype(float)
    ordered = resized[..., ::-1] if to_rgb else resized
    expected = torch.tensor(((ordered - MEAN) / STD).transpose(2, 0, 1).copy()).float()
    close(teacher.preprocess(teacher.reader(str(tmp_path / 'image.png'))[None])[0], expected)


def test_grey_teacher_reads_grey_images(tmp_path):
    settings = resnet18(data_preprocessor=dict(mean=[9.], std=[3.]))
    settings['backbone']['in_channels'] = 1
    config = write_config(
        tmp_path, settings, pipeline=[
            dict(type='LoadImageFromFile', color_type='grayscale'),
            dict(type='Resize', scale=(64, 64))
        ])
    teacher = build_teacher(config, save(classifier(**settings), tmp_path))
    cv2.imwrite(str(tmp_path / 'image.png'), np.full((30, 40, 3), 99, np.uint8))
    read = teacher.reader(str(tmp_path / 'image.png'))
    assert read.shape == (1, 64, 64)
    close(teacher.preprocess(read[None]), torch.full((1, 1, 64, 64), 30.))


@torch.inference_mode()
def test_checkpoint_is_what_scores(tmp_path):
    model = classifier(**volo())
    teacher = build_teacher(write_config(tmp_path, volo(), size=64), save(model, tmp_path))
    assert (teacher.grid, teacher.num_classes, teacher.img_size) == ((4, 4), CLASSES, 64)
    read = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    x = (read.flip(1) - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    close(teacher(teacher.preprocess(read)), model.head.aux_head(model.backbone(x)[0].tokens))


@torch.inference_mode()
def test_timm_classifier_of_mmpretrain(tmp_path):
    model = timm_model('resnet18')
    path = str(tmp_path / 'weights.pth')
    torch.save(model.state_dict(), path)  # without mmpretrain's prefix, as it saves them
    config = write_config(
        tmp_path,
        # These weights are not fetched, since the checkpoint has others.
        dict(type='TimmClassifier', model_name='resnet18', num_classes=CLASSES, pretrained=True),
        size=64)
    teacher = build_teacher(config, path)
    x = images(64)
    close(teacher(x), TimmCells(model)(x))


def test_mmpretrain_teacher_by_name(tmp_path):
    model = classifier(**dict(resnet18(), head=dict(linear_head(512), num_classes=1000)))
    teacher = build_teacher('mmpretrain:resnet18_8xb32_in1k', save(model, tmp_path))
    assert (teacher.img_size, teacher.grid, teacher.num_classes) == (224, (7, 7), 1000)
    assert teacher.describe_input() == dict(
        interpolation='bilinear', backend='cv2', color_type='color', imdecode_backend='cv2',
        to_rgb=True, mean=pytest.approx([123.675, 116.28, 103.53]),
        std=pytest.approx([58.395, 57.12, 57.375]))


@torch.inference_mode()
def test_timm_size_may_be_that_of_the_checkpoint_or_another(tmp_path):
    name = 'vit_tiny_patch16_224'
    small, x = timm_model(name, img_size=64), images(64)
    teacher = build_teacher(
        f'timm:{name}', save(small, tmp_path), num_classes=CLASSES, img_size=64)
    close(teacher(x), TimmCells(small)(x))

    large = timm_model(name)
    teacher = build_teacher(
        f'timm:{name}', save(large, tmp_path), num_classes=CLASSES, img_size=64)
    assert teacher.grid == (4, 4)
    large.set_input_size(img_size=(64, 64))
    close(teacher(x), TimmCells(large)(x))


@torch.inference_mode()
def test_pretrained_weights_of_timm_at_another_size(monkeypatch):
    create_model, fetched = timm.create_model, []

    def fetch(name, pretrained=False, **settings):
        model = create_model(name, **settings)
        if pretrained:
            fetched.append(name)
            randomize(model)
        return model

    monkeypatch.setattr(timm, 'create_model', fetch)
    name, x = 'vit_tiny_patch16_224', images(64)
    teacher = build_teacher(f'timm:{name}', pretrained=True, num_classes=CLASSES, img_size=64)
    assert fetched == [name] and teacher.num_classes == 1000  # they have their classes
    model = randomize(create_model(name))
    assert teacher.fingerprint == weights_fingerprint(model.state_dict())
    model.set_input_size(img_size=(64, 64))
    close(teacher(x), TimmCells(model)(x))
    with pytest.raises(ValueError, match='Its own pretrained weights do not fit timm:volo_d1_224 '
                       'with 1000 classes .--num-classes. at 64 pixels .--img-size.*pos_embed'):
        build_teacher('timm:volo_d1_224', pretrained=True, img_size=64)


def test_pretrained_loads_what_the_config_names(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'hub'))
    weights = save(classifier(**vit()), tmp_path)
    for address in (weights, f'file://{weights}'):
        config = write_config(tmp_path, vit(), load_from=address)
        teacher = build_teacher(config, pretrained=True)
        assert teacher.fingerprint == weights_fingerprint(load_weights(weights))


@pytest.mark.parametrize('wrap', [
    lambda state: dict(state_dict=state, message_hub=dict(step=3)),
    lambda state: dict(model=state),
    lambda state: state,
    lambda state: dict(state_dict={f'module.{name}': value for name, value in state.items()}),
])
def test_kinds_of_checkpoints(tmp_path, wrap):
    model = classifier(**vit())
    path = str(tmp_path / 'weights.pth')
    torch.save(wrap(model.state_dict()), path)
    teacher = build_teacher(write_config(tmp_path, vit()), path)
    assert teacher.fingerprint == weights_fingerprint(model.state_dict())


def test_fingerprint_tells_weights_apart():
    state = classifier(**vit()).state_dict()
    print_ = weights_fingerprint(state)
    assert print_ == weights_fingerprint({name: v.clone() for name, v in reversed(state.items())})
    assert len(print_) == 16
    for name in ('head.layers.head.weight', 'backbone.cls_token'):
        assert weights_fingerprint({**state, name: state[name] * 1.001}) != print_
    name = 'head.layers.head.bias'
    assert weights_fingerprint({**state, name: state[name].double()}) != print_
    assert weights_fingerprint({('x' if k == name else k): v for k, v in state.items()}) != print_
