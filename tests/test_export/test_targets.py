# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Exported files against the libraries' own models, with names mapped by hand."""
import os
from copy import deepcopy

import pytest
import timm
import torch
from mmengine.runner import load_checkpoint
from mmpretrain.models import build_classifier

from autoprog_mm.export import targets as export_targets
from autoprog_mm.export.checkpoint import export_checkpoint
from autoprog_mm.export.plain_model import build_plain_model
from tests.micro import differences, load
from tests.test_export.models import (
    PARTS,
    WIDTHS,
    assert_same,
    deit_config,
    run_code,
    save,
    volo_config,
)


def timm_deit_names(depth) -> dict:
    """Ours by timm's, typed in."""
    names = dict(cls_token='backbone.cls_token', pos_embed='backbone.pos_embed')
    modules = {'patch_embed.proj': 'backbone.patch_embed.projection', 'norm': 'backbone.ln1',
               'head': 'head.layers.head'}
    for i in range(depth):
        modules.update({
            f'blocks.{i}.norm1': f'backbone.layers.{i}.ln1',
            f'blocks.{i}.attn.qkv': f'backbone.layers.{i}.attn.qkv',
            f'blocks.{i}.attn.proj': f'backbone.layers.{i}.attn.proj',
            f'blocks.{i}.norm2': f'backbone.layers.{i}.ln2',
            f'blocks.{i}.mlp.fc1': f'backbone.layers.{i}.ffn.layers.0.0',
            f'blocks.{i}.mlp.fc2': f'backbone.layers.{i}.ffn.layers.1',
        })
    for theirs, ours in modules.items():
        names.update({f'{theirs}.{leaf}': f'{ours}.{leaf}' for leaf in ('weight', 'bias')})
    return names


# --------------------------------------------------------------- whole models


def test_deit_tiny_is_timms(tmp_path):
    config = deit_config(dict(num_classes=10), arch='deit-tiny', img_size=224, patch_size=16)
    model, saved = save(tmp_path / 'in.pth', config)
    export = export_checkpoint(tmp_path / 'in.pth', tmp_path / 'out.pth', 'timm')
    assert export.difference <= export.allowed and export.allowed < 1e-3

    exported = load(tmp_path / 'out.pth')
    expected = {t: saved['state_dict'][o] for t, o in timm_deit_names(12).items()}
    assert differences(exported, expected) == []
    assert export.code == [
        "import torch, timm; model = timm.create_model('deit_tiny_patch16_224', num_classes=10)",
        f"model.load_state_dict(torch.load('{tmp_path}/out.pth', weights_only=True))"
    ]
    assert_same(model, run_code(export.code), size=224)


def test_volo_d1_is_timms(tmp_path, monkeypatch):
    """By names and shapes of all parameters; what it computes is tested at 64 pixels below."""
    monkeypatch.setattr(torch.nn.init, 'trunc_normal_', lambda tensor, **_: tensor)
    config = volo_config(dict(num_classes=1000), arch='d1', img_size=224, patch_size=8)
    with torch.device('meta'):
        source = build_plain_model(dict(model=config))
        theirs = timm.create_model('volo_d1_224').state_dict()
    target = export_targets.find_target(source, 'timm')
    assert target.code('x')[0].endswith("model = timm.create_model('volo_d1_224')")
    ours = source.model.state_dict()
    assert {target.rename(name): value.shape for name, value in ours.items()} \
        == {name: value.shape for name, value in theirs.items()}
    for name in ours:
        part = 'head' if target.rename(name).split('.')[0] in ('head', 'aux_head') else 'backbone'
        assert name == f'{part}.{target.rename(name)}'

    target = export_targets.find_target(source, 'mmpretrain')
    assert target.code('x')[0].endswith(
        "({'type': 'TimmClassifier', 'model_name': 'volo_d1_224'})")
    assert {target.rename(name) for name in ours} == theirs.keys()


def test_timms_number_of_classes_is_left_out():
    config = deit_config(dict(num_classes=1000), arch='deit-tiny', img_size=224, patch_size=16)
    with torch.device('meta'):
        source = build_plain_model(dict(model=config))
    target = export_targets.find_target(source, 'timm')
    assert (target.args, target.kwargs) == (('deit_tiny_patch16_224', ), {})


@pytest.mark.parametrize('config, name', [
    (deit_config(arch='deit-tiny', img_size=224, patch_size=16), 'deit_tiny_patch16_224'),
    (deit_config(arch='deit-small', img_size=224, patch_size=16), 'deit_small_patch16_224'),
    (deit_config(arch='deit-base', img_size=384, patch_size=16), 'deit_base_patch16_384'),
    (deit_config(arch='deit-tiny', img_size=384, patch_size=16), None),
    (deit_config(arch='deit-tiny', img_size=224, patch_size=32), None),
    (deit_config(img_size=224, patch_size=16, arch=dict(
        embed_dims=192, num_layers=12, num_heads=3, feedforward_channels=576)), None),
    (deit_config(img_size=224, patch_size=16, arch=dict(
        embed_dims=192, num_layers=3, num_heads=3, feedforward_channels=768)), None),
    (volo_config(arch='d1', img_size=224, patch_size=8), 'volo_d1_224'),
    (volo_config(arch='D1', img_size=384, patch_size=8), 'volo_d1_384'),
    (volo_config(arch='d1', img_size=448, patch_size=8), None),
    (volo_config(arch='d1', img_size=224, patch_size=16), None),
    (volo_config(arch='d2', img_size=224, patch_size=8), 'volo_d2_224'),
])
def test_what_timm_has_a_name_for(config, name):
    with torch.device('meta'):
        source = build_plain_model(dict(model=config))
    target = export_targets.find_target(source, 'timm')
    assert target.args == (() if name is None else (name, ))
    assert (target.builder == 'timm.create_model') == (name is not None)
    assert target.kwargs['num_classes'] == config['head']['num_classes']


# --------------------------------------------------------------------- options

DEIT_OPTIONS = {
    'plain': {},
    'without qkv bias': dict(qkv_bias=False),
    'without final norm': dict(final_norm=False),
    'with pre-norm': dict(pre_norm=True),
    'with layer scale': dict(layer_scale_init_value=1e-4),
    'one channel': dict(in_channels=1),
    'pooled': dict(out_type='avg_featmap', final_norm=False),
    'pooled without class token': dict(
        out_type='avg_featmap', final_norm=False, with_cls_token=False),
    'odd width': dict(arch=dict(WIDTHS, embed_dims=22, feedforward_channels=49)),
    'stock layers': dict(layer_cfgs=dict(act_cfg=dict(type='GELU'), num_fcs=2, drop_rate=.1)),
    'training options': dict(drop_rate=.1, drop_path_rate=.2, init_cfg=dict(type='Kaiming')),
}


@pytest.mark.parametrize('format, name', [
    *(('timm', name) for name in DEIT_OPTIONS),
    # mmpretrain gets the options as they are.
    *(('mmpretrain', name) for name in ('with layer scale', 'one channel', 'training options'))])
def test_deit_options(tmp_path, name, format):
    options = DEIT_OPTIONS[name]
    config = deit_config(**options)
    if 'in_channels' in options:
        config['data_preprocessor'].update(mean=[100.], std=[50.])
    _, saved = save(tmp_path / 'in.pth', config)
    # Of the stock classes, which share no code of ours.
    config['data_preprocessor']['type'] = 'ClsDataPreprocessor'
    config['backbone']['type'] = 'VisionTransformer'
    stock = build_classifier(deepcopy(config))
    stock.load_state_dict(saved['state_dict'])
    channels = options.get('in_channels', 3)

    export = export_checkpoint(tmp_path / 'in.pth', tmp_path / 'out.pth', format)
    assert_same(stock, run_code(export.code), channels=channels)
    images = {key: config['data_preprocessor'][key] for key in ('mean', 'std', 'to_rgb')}
    assert export.images == images
    exported = load(tmp_path / 'out.pth')
    if format == 'mmpretrain':
        assert exported['meta']['model']['data_preprocessor'] == images
        assert differences(exported['state_dict'], dict(saved['state_dict'])) == []
        load_checkpoint(stock, str(tmp_path / 'out.pth'), strict=True, logger='silent')
        built = build_classifier(deepcopy(exported['meta']['model']))
        built.load_state_dict(exported['state_dict'])
        assert_same(stock, built, channels=channels)
        assert torch.equal(built.data_preprocessor.mean, stock.data_preprocessor.mean)
        assert built.data_preprocessor.to_rgb
        assert exported['meta']['dataset_meta'] == dict(classes=['a', 'b', 'c', 'd'])
    else:
        assert len(exported) == len(saved['state_dict'])
        assert export.code[0].startswith(
            'import torch, timm; model = timm.models.vision_transformer.VisionTransformer(img_size')


@pytest.mark.parametrize('options, message', [
    (dict(out_type='avg_featmap'), "out_type': 'avg_featmap', 'final_norm': True.* of model.back"),
    (dict(norm_cfg=dict(type='LN')), r"\{'norm_cfg': .*its eps is 1e-06"),
    (dict(patch_cfg=dict(bias=False)), r"\{'patch_cfg': \{'bias': False\}\} of model.backbone"),
    (dict(layer_cfgs=dict(ffn_type='swiglu_fused')), r"\{'ffn_type': 'swiglu_fused'\} of .*layer_"),
    (dict(layer_cfgs=dict(act_cfg=dict(type='ReLU'))), r"\{'act_cfg': .*ReLU.*\} of .*layer_cfgs"),
    (dict(layer_cfgs=[dict(qkv_bias=False), {}]), r"\{'qkv_bias': False\} of .*layer_cfgs"),
    (dict(head=dict(hidden_dim=6)), r"\{'hidden_dim': 6\} of model.head"),
])
def test_what_timm_does_not_have(tmp_path, options, message):
    model, _ = save(tmp_path / 'in.pth', deit_config(**options))
    with pytest.raises(ValueError, match=f'timm cannot represent .*{message}'):
        export_checkpoint(tmp_path / 'in.pth', tmp_path / 'out.pth', 'timm')
    assert os.listdir(tmp_path) == ['in.pth']
    # Stock mmpretrain has all of it.
    export = export_checkpoint(tmp_path / 'in.pth', tmp_path / 'out.pth', 'mmpretrain')
    assert_same(model, run_code(export.code))


def reference_volo(saved, **options):
    weights = {}
    for name, value in saved['state_dict'].items():
        part, _, name = name.partition('.')
        weights[name] = value
    parts = len(options['layers'])
    first = (True, ) + (False, ) * (parts - 1)
    model = timm.models.volo.VOLO(
        num_classes=4, downsamples=first, outlook_attention=first, **options)
    model.load_state_dict(weights, strict=True)
    return model


VOLO_OPTIONS = {
    'plain': {},
    'three parts': dict(arch=dict(PARTS, layers=(2, 1, 2), embed_dims=[8, 16, 16],
                                  num_heads=[1, 2, 2])),
    'five parts': dict(arch=dict(PARTS, layers=[2, 1, 1, 1, 1], embed_dims=[8] + [16] * 4,
                                 num_heads=[1] + [2] * 4)),
    'all other': dict(arch=dict(PARTS, mlp_ratio=2.), in_channels=1, qkv_bias=True, patch_size=8,
                      head=dict(dense_weight=0), mix_token=False, pos_drop_rate=.1),
}


@pytest.mark.parametrize('name', VOLO_OPTIONS)
def test_volo_options(tmp_path, name):
    options = VOLO_OPTIONS[name]
    _, saved = save(tmp_path / 'in.pth', volo_config(**options))
    timms = dict(options.get('arch', PARTS), patch_size=options.get('patch_size', 4))
    if name == 'all other':
        timms.update(in_chans=1, qkv_bias=True, use_aux_head=False)
    theirs = reference_volo(saved, img_size=32, **timms)
    export = export_checkpoint(tmp_path / 'in.pth', tmp_path / 'out.pth', 'timm')
    assert export.code[0].startswith('import torch, timm; model = timm.models.volo.VOLO(')
    assert_same(theirs, run_code(export.code), channels=timms.get('in_chans', 3))

    with pytest.raises(ValueError, match="mmpretrain cannot represent .*'arch': .*--format timm"):
        export_checkpoint(tmp_path / 'in.pth', tmp_path / 'out2.pth', 'mmpretrain')


def test_volo_d1_of_other_options(tmp_path, monkeypatch):
    # Drawing 26 million weights five times takes longer than all the rest.
    for module, name in ((torch.nn.init, 'trunc_normal_'), (torch.nn.init, 'kaiming_uniform_'),
                         (timm.layers.weight_init, '_trunc_normal_')):
        monkeypatch.setattr(module, name, lambda tensor, *_, **__: tensor)
    d1 = dict(layers=[4, 4, 8, 2], embed_dims=[192, 384, 384, 384], num_heads=[6, 12, 12, 12])
    model, _ = save(tmp_path / 'in.pth', volo_config(
        dict(in_channels=384, dense_weight=0), arch=d1, img_size=64, patch_size=8))
    export = export_checkpoint(tmp_path / 'in.pth', tmp_path / 'out.pth', 'mmpretrain')
    for option in ("'model_name': 'volo_d1_224'", "'img_size': 64", "'use_aux_head': False"):
        assert option in export.code[0]
    assert_same(model, run_code(export.code), size=64)
