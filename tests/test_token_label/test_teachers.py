# Copyright (c) the autoprog_mm authors. All rights reserved.
import autoprog_mm  # noqa: F401  isort: skip  (before anything that imports torchvision)

import cv2
import numpy as np
import pytest
import timm
import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmpretrain.registry import MODELS
from PIL import Image
from torchvision import transforms

from autoprog_mm.token_label.teachers import (
    ClassifierCells,
    DenseTeacher,
    ImageReader,
    TimmCells,
    build_teacher,
    load_weights,
    weights_fingerprint,
)

CLASSES = 7
MEAN, STD = [10., 60., 110.], [40., 50., 60.]
VIT = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
VOLO = dict(
    layers=(2, 2, 1, 1), embed_dims=(16, 32, 32, 32), num_heads=(1, 2, 2, 2), stem_hidden_dim=8)
TIMM_VIT = dict(embed_dim=24, depth=2, num_heads=2)


def randomize(model: nn.Module) -> nn.Module:
    """Weights none of which is a start value that hides something, such as 0."""
    torch.manual_seed(0)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            nn.init.uniform_(value, 0.5, 1.5) if 'running_var' in name else \
                nn.init.normal_(value, std=0.1)
    return model.eval()


def timm_model(name, **settings):
    return randomize(timm.create_model(name, num_classes=CLASSES, **settings))


def classifier(**settings):
    settings.setdefault('data_preprocessor', dict(mean=MEAN, std=STD, to_rgb=True))
    return randomize(MODELS.build(dict(dict(type='ImageClassifier'), **settings)))


def linear_head(channels):
    return dict(type='LinearClsHead', num_classes=CLASSES, in_channels=channels)


def vit(kind='VisionTransformer', head='VisionTransformerClsHead', **settings):
    return dict(
        backbone=dict(type=kind, arch=VIT, img_size=32, patch_size=8, **settings),
        head=dict(type=head, num_classes=CLASSES, in_channels=16))


def volo(dense_weight=0.5):
    return dict(
        backbone=dict(type='ElasticVOLO', arch=VOLO, img_size=64, patch_size=8),
        head=dict(
            type='VOLOHead', num_classes=CLASSES, in_channels=32, dense_weight=dense_weight))


def resnet18(**settings):
    return dict(
        backbone=dict(type='ResNet', depth=18),
        neck=dict(type='GlobalAveragePooling'),
        head=linear_head(512),
        **settings)


def images(size, count=2):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def save(model, folder, name='weights.pth'):
    path = str(folder / name)
    torch.save(dict(state_dict=model.state_dict(), meta=dict(epoch=1)), path)
    return path


def write_config(folder, model, size=32, pipeline=None, **settings):
    pipeline = pipeline or [dict(type='LoadImageFromFile'), dict(type='Resize', scale=size)]
    path = str(folder / 'config.py')
    Config(
        dict(
            model=dict(dict(type='ImageClassifier'), **model),
            data_preprocessor=dict(mean=MEAN, std=STD, to_rgb=True),
            test_dataloader=dict(dataset=dict(type='CustomDataset', pipeline=pipeline)),
            **settings)).dump(path)
    return path


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- cells: timm


@torch.inference_mode()
def test_timm_cnn_is_its_classifier_at_each_place():
    model, x = timm_model('resnet18'), images(96)
    scores = TimmCells(model)(x)
    assert scores.shape == (2, 3, 3, CLASSES)
    features = model.layer4(model.layer3(model.layer2(model.layer1(
        model.maxpool(model.act1(model.bn1(model.conv1(x))))))))
    for row in range(3):
        for column in range(3):
            close(scores[:, row, column],
                  features[:, :, row, column] @ model.fc.weight.T + model.fc.bias)
    close(scores.mean(dim=(1, 2)), model(x))  # pooling and a linear layer change places
    assert scores.std(dim=(1, 2)).min() > 0.01


@torch.inference_mode()
@pytest.mark.parametrize('pool', ['token', 'avg'])
def test_timm_vit_scores_each_patch_token(pool):
    model, x = timm_model(
        'vit_tiny_patch16_224', img_size=64, global_pool=pool, **TIMM_VIT), images(64)
    scores = TimmCells(model)(x)
    assert scores.shape == (2, 4, 4, CLASSES)
    tokens = model.patch_embed.proj(x).flatten(2).transpose(1, 2)
    tokens = torch.cat([model.cls_token.expand(2, -1, -1), tokens], dim=1) + model.pos_embed
    for block in model.blocks:
        tokens = block(tokens)
    norm = model.norm if pool == 'token' else model.fc_norm
    assert isinstance(norm, nn.LayerNorm)
    for row in range(4):
        for column in range(4):
            token = norm(tokens[:, 1 + 4 * row + column])
            close(scores[:, row, column], token @ model.head.weight.T + model.head.bias)


@torch.inference_mode()
def test_timm_distilled_deit_scores_with_both_heads():
    model, x = timm_model(
        'deit_tiny_distilled_patch16_224', img_size=64, **TIMM_VIT), images(64)
    scores = TimmCells(model)(x)
    tokens = model.forward_features(x)[:, 2:]
    close(scores.flatten(1, 2), (model.head(tokens) + model.head_dist(tokens)) / 2)


@torch.inference_mode()
@pytest.mark.parametrize('aux', [True, False])
def test_timm_volo_scores_tokens_with_the_head_for_tokens(aux):
    model, x = randomize(timm.models.VOLO(
        layers=(1, 1), img_size=64, num_classes=CLASSES, embed_dims=(16, 32), num_heads=(1, 2),
        downsamples=(True, False), outlook_attention=(True, False), stem_hidden_dim=8,
        use_aux_head=aux)), images(64)
    scores = TimmCells(model)(x)
    assert scores.shape == (2, 4, 4, CLASSES)
    tokens = model.patch_embed(x).permute(0, 2, 3, 1)
    tokens = model.network[1](model.network[0](tokens))  # outlooker, downsample
    tokens = model.network[2](tokens + model.pos_embed)
    tokens = torch.cat([model.cls_token.expand(2, -1, -1), tokens.flatten(1, 2)], dim=1)
    for block in model.post_network:  # only the class token sees the others
        tokens = block(tokens)
    head = model.aux_head if aux else model.head
    for row in range(4):
        for column in range(4):
            token = model.norm(tokens[:, 1 + 4 * row + column])
            close(scores[:, row, column], token @ head.weight.T + head.bias)


@torch.inference_mode()
def test_timm_swin_has_channels_last():
    model = timm_model(
        'swin_tiny_patch4_window7_224', img_size=64, window_size=2, embed_dim=8,
        depths=(1, 1, 1), num_heads=(1, 1, 1))
    x = images(64)
    scores = TimmCells(model)(x)
    assert scores.shape == (2, 4, 4, CLASSES)
    features = model.forward_features(x)  # (B, H, W, C)
    assert features.shape == (2, 4, 4, 32)
    close(scores[:, 1, 2], features[:, 1, 2] @ model.head.fc.weight.T + model.head.fc.bias)
    close(scores.mean(dim=(1, 2)), model(x))


@torch.inference_mode()
def test_timm_convnext_normalises_each_cell():
    model, x = timm_model('convnext_atto', depths=(1, 1, 1, 1), dims=(8, 8, 16, 16)), images(96)
    scores = TimmCells(model)(x)
    assert scores.shape == (2, 3, 3, CLASSES)
    features = model.stages(model.stem(x))
    cell = features[:, :, 0, 2]
    cell = nn.functional.layer_norm(
        cell, (16, ), model.head.norm.weight, model.head.norm.bias, model.head.norm.eps)
    close(scores[:, 0, 2], cell @ model.head.fc.weight.T + model.head.fc.bias)


# ---------------------------------------------------------- cells: mmpretrain


@torch.inference_mode()
def test_classifier_cnn_is_its_classifier_at_each_place():
    model, x = classifier(**resnet18()), images(96)
    expected = model(x)
    features = model.backbone(x)[-1]
    scores = ClassifierCells(model)(x)
    assert scores.shape == (2, 3, 3, CLASSES)
    close(scores[:, 2, 1], features[:, :, 2, 1] @ model.head.fc.weight.T + model.head.fc.bias)
    close(scores.mean(dim=(1, 2)), expected)


@torch.inference_mode()
@pytest.mark.parametrize('kind', ['VisionTransformer', 'ElasticDeiT'])
@pytest.mark.parametrize('out_type', ['cls_token', 'avg_featmap'])
def test_classifier_vit_scores_each_patch_token(kind, out_type):
    model, x = classifier(**vit(kind, out_type=out_type)), images(48)
    backbone = model.backbone
    scores = ClassifierCells(model)(x)
    assert scores.shape == (2, 6, 6, CLASSES)  # not the grid that it was built for
    backbone.out_type = 'raw'
    tokens = backbone(x)[0][:, 1:]
    if out_type == 'avg_featmap':
        tokens = backbone.ln2(tokens)
    head = model.head.layers.head
    for row, column in ((0, 0), (0, 5), (4, 1)):
        close(scores[:, row, column], tokens[:, 6 * row + column] @ head.weight.T + head.bias)


@torch.inference_mode()
def test_classifier_distilled_deit_scores_with_both_heads():
    model, x = classifier(**vit('DistilledVisionTransformer', 'DeiTClsHead')), images(32)
    scores = ClassifierCells(model)(x)
    model.backbone.out_type = 'raw'
    tokens, layers = model.backbone(x)[0][:, 2:], model.head.layers
    close(scores.flatten(1, 2), (layers.head(tokens) + layers.head_dist(tokens)) / 2)


@torch.inference_mode()
@pytest.mark.parametrize('dense_weight', [0.5, 0])
def test_elastic_volo_scores_tokens(dense_weight):
    model, x = classifier(**volo(dense_weight)), images(64)
    scores = ClassifierCells(model)(x)
    assert scores.shape == (2, 4, 4, CLASSES)
    head = model.head.aux_head if dense_weight else model.head.head
    tokens = model.backbone(x)[0].tokens
    close(scores[:, 3, 1], tokens[:, 3, 1] @ head.weight.T + head.bias)


@torch.inference_mode()
def test_classifier_convnext_normalises_each_cell():
    model, x = classifier(
        backbone=dict(
            type='ConvNeXt', arch=dict(depths=[1, 1, 1, 1], channels=[8, 8, 8, 16])),
        head=linear_head(16)), images(96)
    scores = ClassifierCells(model)(x)
    assert scores.shape == (2, 3, 3, CLASSES)
    for i, stage in enumerate(model.backbone.stages):
        x = stage(model.backbone.downsample_layers[i](x))
    cell = model.backbone.norm3(x[:, :, 1:2, 2:3]).flatten(1)
    close(scores[:, 1, 2], model.head.fc(cell))


# ------------------------------------------------------------------- building


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


# --------------------------------------------------------------------- errors


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
    'code': (lambda path: torch.save(dict(state_dict=Bomb()), path), 'not a file of plain weights'),
    # As mmengine's own CheckpointHook saves them.
    'log': (lambda path: torch.save(
        dict(state_dict={}, message_hub=HistoryBuffer([1.], [1])), path),
            r"keep only its weights: torch.save\(torch.load\(OLD, weights_only=False\)"),
    'text': (lambda path: open(path, 'w').write('hello'), 'cannot be read'),
    'bytes': (lambda path: open(path, 'wb').write(b'\x00\xff'), 'not a file of plain weights'),
    'empty': (lambda path: open(path, 'w').close(), 'cannot be read'),
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
