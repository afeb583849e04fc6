# Copyright (c) the autoprog_mm authors. All rights reserved.
import sys

import pytest
from mmengine.config import Config
from mmpretrain.models import VisionTransformer, VisionTransformerClsHead
from mmpretrain.registry import MODELS

from autoprog_mm import Subnet
from autoprog_mm.engine.checkpoint import describe_model
from autoprog_mm.export.plain_model import build_plain_model
from autoprog_mm.models import ElasticDeiT, ElasticVOLO, VOLOHead


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A folder in which a file `touched` appears if a type of it is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / 'trap_module.py').write_text(
        "open('touched', 'w').close()\n\n\nclass Trap:\n    pass\n")
    yield tmp_path
    sys.modules.pop('trap_module', None)


def test_the_trap_works(trap):
    MODELS.get('trap_module.Trap')  # mmengine imports it
    assert (trap / 'touched').exists()


# ------------------------------------------------------------------- building


def deit(**options):
    return dict(
        type='ImageClassifier',
        backbone=dict(
            type='ElasticDeiT',
            arch=dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=12),
            img_size=16,
            patch_size=8,
            **options),
        head=dict(type='VisionTransformerClsHead', num_classes=3, in_channels=8))


def volo(**options):
    arch = dict(
        layers=[2, 2, 1, 1], embed_dims=[4, 8, 8, 8], num_heads=[1, 2, 2, 2], stem_hidden_dim=4)
    return dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(
            type='ElasticVOLO', arch=arch, img_size=16, patch_size=4, mix_token=True, **options),
        head=dict(
            type='VOLOHead', num_classes=3, in_channels=8, class_target='token_label',
            loss=dict(type='trap_module.Trap')))


def test_builds_both_families():
    config = dict(model=deit(drop_path_rate=.5, channels_last=True, qkv_bias=False))
    built = build_plain_model(config)
    assert type(built.model.backbone) is ElasticDeiT
    assert type(built.model.head) is VisionTransformerClsHead
    assert not built.model.training
    assert built.model.backbone.full_subnet == Subnet(2, 16)
    assert built.model.backbone.layers[0].attn.qkv.bias is None
    assert 'drop_path_rate' not in built.backbone and built.backbone['qkv_bias'] is False
    assert built.images == {}

    config = dict(model=volo(channels_last=True),
                  data_preprocessor=dict(mean=[1, 2, 3], std=[4, 5, 6], x=7))
    built = build_plain_model(config)
    assert type(built.model.backbone) is ElasticVOLO and type(built.model.head) is VOLOHead
    assert built.images == dict(mean=[1, 2, 3], std=[4, 5, 6])
    config['model']['data_preprocessor'] = dict(mean=[9.], to_rgb=True)
    assert build_plain_model(config).images == dict(mean=[9.], to_rgb=True)


def test_same_as_the_stock_backbone():
    config = deit()
    config['backbone']['type'] = 'VisionTransformer'
    ours = build_plain_model(dict(model=config)).model.backbone.state_dict()
    options = dict(config['backbone'])
    options.pop('type')
    stock = VisionTransformer(**options).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in stock.items()}


EVIL = 'trap_module.Trap'


@pytest.mark.parametrize('place', [
    ('type', ),
    ('backbone', 'type'),
    ('head', 'type'),
    ('backbone', 'norm_cfg', 'type'),
    ('backbone', 'patch_cfg', 'conv_type'),
    ('backbone', 'patch_cfg', 'norm_cfg', 'type'),
    ('backbone', 'layer_cfgs', 'act_cfg', 'type'),
    ('backbone', 'layer_cfgs', 'act_cfg', '_scope_'),
    ('backbone', 'layer_cfgs', 'norm_cfg', 'type'),
    ('head', 'act_cfg', 'type'),
])
def test_builds_no_other_type(trap, place):
    config = deit()
    part = config
    for name in place[:-1]:
        part = part.setdefault(name, {})
    part[place[-1]] = EVIL
    config['head'].setdefault('hidden_dim', 4)
    with pytest.raises(ValueError, match=r'{} must be one of .*Trap.*nothing else is built'.format(
            r'model\.' + r'\.'.join(place))):
        build_plain_model(dict(model=config))
    assert 'trap_module' not in sys.modules and not (trap / 'touched').exists()


def test_layers_of_a_list_are_checked_too(trap):
    config = deit(layer_cfgs=[{}, dict(act_cfg=dict(type=EVIL))])
    with pytest.raises(ValueError, match=r'layer_cfgs\[1\]\.act_cfg\.type'):
        build_plain_model(dict(model=config))
    assert 'trap_module' not in sys.modules


def test_what_only_training_needs_is_not_built(trap):
    config = deit()
    config['head']['loss'] = dict(type=EVIL)
    config['train_cfg'] = dict(augments=[dict(type=EVIL)])
    config['data_preprocessor'] = dict(type=EVIL, mean=[0.], batch_augments=dict(type=EVIL))
    assert build_plain_model(dict(model=config)).images == dict(mean=[0.])
    assert 'trap_module' not in sys.modules


def test_config_based_on_a_package_is_built(trap):
    cfg = Config.fromstring("_base_ = 'mmpretrain::deit/deit-tiny_4xb256_in1k.py'", '.py')
    cfg.model.backbone.type = 'ElasticDeiT'
    config = describe_model(cfg)
    assert config['model']['_scope_'] == 'mmpretrain'  # noted by mmengine
    for part in (config['model'], config['model']['backbone'], config['model']['head']):
        part['_scope_'] = 'trap_module'  # and not looked at here
    assert build_plain_model(config).model.backbone.full_subnet == Subnet(12, 224)
    assert 'trap_module' not in sys.modules


def test_loads_no_other_file(tmp_path):
    pretrained = dict(type='Pretrained', checkpoint=str(tmp_path / 'missing.pth'))
    config = deit(init_cfg=pretrained, layer_cfgs=dict(init_cfg=pretrained),
                  patch_cfg=dict(init_cfg=pretrained))
    config.update(init_cfg=[pretrained], pretrained=str(tmp_path / 'missing.pth'))
    config['head']['init_cfg'] = pretrained
    model = build_plain_model(dict(model=config)).model
    model.init_weights()  # would raise


@pytest.mark.parametrize('change, message', [
    (dict(neck=dict(type='GlobalAveragePooling')), 'model.neck must be None'),
    (dict(test_cfg={}), r"model has options \['test_cfg'\]"),
    (dict(head=None), 'must have a dict model.head, but has None'),
    (dict(backbone=[1]), r'must have a dict model.backbone, but has \[1\]'),
    (dict(data_preprocessor=[1]), r'must have a dict data_preprocessor, but has \[1\]'),
    (dict(head=dict(type='VOLOHead')), 'model.head.type must be one of .*VisionTransformerClsHead'),
    (dict(head=dict(type='LinearClsHead')), "model.head.type must be .*'LinearClsHead'"),
    (dict(type=['ImageClassifier']), 'model.type must be one of'),
])
def test_refuses_other_models(change, message):
    with pytest.raises(ValueError, match=message):
        build_plain_model(dict(model={**deit(), **change}))


@pytest.mark.parametrize('options, message', [
    (dict(depth=3), r"model.backbone has options \['depth'\]"),
    (dict(out_type='raw'), "out_type must be 'cls_token' or 'avg_featmap' .*'raw'"),
    (dict(out_indices=0), 'model.backbone cannot be built .*out_indices must be -1'),
    (dict(with_cls_token=False), 'model.backbone cannot be built .*with_cls_token'),
    (dict(layer_cfgs=3), 'model.backbone cannot be built'),
])
def test_refuses_other_options(options, message):
    with pytest.raises(ValueError, match=message):
        build_plain_model(dict(model=deit(**options)))


def test_needs_a_model():
    with pytest.raises(ValueError, match='must have a dict model, but has None.*--config'):
        build_plain_model(dict(a=1))
