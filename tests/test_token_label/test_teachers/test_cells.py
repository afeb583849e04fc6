# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What a teacher says of cells."""
import autoprog_mm  # noqa: F401  isort: skip  (before anything that imports torchvision)

import pytest
import timm
import torch
import torch.nn as nn

from autoprog_mm.token_label.teachers import (
    ClassifierCells,
    TimmCells,
)
from tests.test_token_label.test_teachers.models import (
    CLASSES,
    TIMM_VIT,
    classifier,
    close,
    images,
    linear_head,
    randomize,
    resnet18,
    timm_model,
    vit,
    volo,
)


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
