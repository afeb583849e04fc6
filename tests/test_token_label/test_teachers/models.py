# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Small classifiers of timm and mmpretrain, with their files."""
import autoprog_mm  # noqa: F401  isort: skip  (before anything that imports torchvision)

import timm
import torch
import torch.nn as nn
from mmengine.config import Config
from mmpretrain.registry import MODELS

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
