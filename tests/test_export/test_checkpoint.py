# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Exported files against the libraries' own models, with names mapped by hand."""
import builtins
import os
import pickle
from copy import deepcopy

import pytest
import timm
import torch
from mmengine.config import Config
from mmengine.runner import load_checkpoint
from mmpretrain.models import build_classifier
from mmpretrain.registry import MODELS

from autoprog_mm.export import targets as export_targets
from autoprog_mm.export.checkpoint import export_checkpoint
from autoprog_mm.export.literal_config import build_literal_model
from tests.micro import differences, load

WIDTHS = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=40)
PARTS = dict(
    layers=(2, 2, 1, 1), embed_dims=(8, 16, 16, 16), num_heads=(1, 2, 2, 2), stem_hidden_dim=4)


def deit_config(head=None, **options) -> dict:
    backbone = dict(dict(type='ElasticDeiT', arch=WIDTHS, img_size=32, patch_size=8), **options)
    width = backbone['arch']['embed_dims'] if isinstance(backbone['arch'], dict) else \
        {'deit-tiny': 192, 'deit-small': 384, 'deit-base': 768}[backbone['arch']]
    return dict(
        type='ImageClassifier',
        data_preprocessor=dict(
            type='ElasticDataPreprocessor', num_classes=4, mean=[110.] * 3, std=[60.] * 3,
            to_rgb=True),
        backbone=backbone,
        head=dict(dict(type='VisionTransformerClsHead', num_classes=4, in_channels=width),
                  **head or {}))


def volo_config(head=None, **options) -> dict:
    backbone = dict(dict(type='ElasticVOLO', arch=PARTS, img_size=32, patch_size=4), **options)
    width = backbone['arch']['embed_dims'][-1] if isinstance(backbone['arch'], dict) else \
        {'d1': 384, 'd2': 512}[backbone['arch'].lower()]
    return dict(
        type='ImageClassifier',
        backbone=backbone,
        head=dict(dict(type='VOLOHead', num_classes=4, in_channels=width), **head or {}))


def randomize(model) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith('running_var'):
                value.uniform_(.5, 2., generator=generator)
            elif value.dtype.is_floating_point:
                value.normal_(0., .1, generator=generator)
                if value.dim() == 1 and name.endswith('weight'):  # of norms and layer scales
                    value.add_(.7)


def save(path, model_config, **changes):
    """A checkpoint in the Runner's layout, of a finished run with random weights.

    Returns:
        tuple: The model, and what was saved.
    """
    cfg = Config(dict(model=deepcopy(model_config), work_dir='x', train_cfg=dict(max_epochs=8)))
    model = MODELS.build(deepcopy(model_config)).eval()
    randomize(model)
    full = getattr(model.backbone, 'full_subnet', None)
    content = dict(
        meta=dict(cfg=cfg.pretty_text, epoch=8, dataset_meta=dict(classes=['a', 'b', 'c', 'd'])),
        state_dict=model.state_dict(),
        online_state_dict={name: value + 1 for name, value in model.state_dict().items()},
        optimizer=dict(state={0: torch.ones(3)}),
        message_hub=dict(log_scalars={}),
        autoprog=full and dict(schema=1, index=3, searching=False,
                               subnet=(full.depth, full.resolution)))
    content.update(changes)
    torch.save({k: v for k, v in content.items() if v is not None}, path)
    return model, content


def run_code(lines) -> torch.nn.Module:
    names = {}
    exec('\n'.join(lines), names)
    return names['model'].eval()


def logits(model, size=32, channels=3) -> torch.Tensor:
    count = 1 if size > 100 else 3
    images = torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return model.eval()(images)


def assert_same(ours, theirs, **options):
    expected = logits(ours, **options)
    assert expected.std() > 0.05  # or nothing is compared
    torch.testing.assert_close(logits(theirs, **options), expected, rtol=1e-4, atol=1e-5)


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


@pytest.mark.parametrize('num_classes', [1000, 10])
def test_deit_tiny_is_timms(tmp_path, num_classes):
    config = deit_config(dict(num_classes=num_classes), arch='deit-tiny', img_size=224,
                         patch_size=16)
    model, saved = save(tmp_path / 'in.pth', config)
    export = export_checkpoint(tmp_path / 'in.pth', tmp_path / 'out.pth', 'timm')
    assert export.difference <= export.allowed and export.allowed < 1e-3

    exported = load(tmp_path / 'out.pth')
    expected = {t: saved['state_dict'][o] for t, o in timm_deit_names(12).items()}
    assert differences(exported, expected) == []
    theirs = timm.create_model('deit_tiny_patch16_224', num_classes=num_classes)
    theirs.load_state_dict(exported, strict=True)
    assert_same(model, theirs, size=224)
    classes = '' if num_classes == 1000 else ', num_classes=10'
    assert export.code == [
        f"import torch, timm; model = timm.create_model('deit_tiny_patch16_224'{classes})",
        f"model.load_state_dict(torch.load('{tmp_path}/out.pth', weights_only=True))"
    ]
    assert_same(model, run_code(export.code), size=224)


def test_volo_d1_is_timms(tmp_path):
    model, saved = save(tmp_path / 'in.pth', volo_config(
        dict(num_classes=1000), arch='d1', img_size=224, patch_size=8))
    for format in ('timm', 'mmpretrain'):
        export = export_checkpoint(tmp_path / 'in.pth', tmp_path / format, format)
        assert export.difference <= export.allowed and export.allowed < 1e-3
        assert {
            'timm': "model = timm.create_model('volo_d1_224')",
            'mmpretrain': "({'type': 'TimmClassifier', 'model_name': 'volo_d1_224'})"
        }[format] in export.code[0]
    exported = load(tmp_path / 'timm')
    assert differences(exported, load(tmp_path / 'mmpretrain')['state_dict']) == []
    theirs = timm.create_model('volo_d1_224')
    assert exported.keys() == theirs.state_dict().keys()
    for name, value in exported.items():
        part = 'head' if name.split('.')[0] in ('head', 'aux_head') else 'backbone'
        assert torch.equal(value, saved['state_dict'][f'{part}.{name}'])
    theirs.load_state_dict(exported, strict=True)
    assert_same(model, theirs, size=224)

    stock = build_classifier(dict(type='TimmClassifier', model_name='volo_d1_224'))
    load_checkpoint(stock, str(tmp_path / 'mmpretrain'), strict=True, logger='silent')
    assert_same(model, stock, size=224)


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
    target = export_targets.find_target(build_literal_model(dict(model=config)), 'timm')
    assert target.args == (() if name is None else (name, ))
    assert (target.builder == 'timm.create_model') == (name is not None)


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


@pytest.mark.parametrize('format', ['timm', 'mmpretrain'])
@pytest.mark.parametrize('name', DEIT_OPTIONS)
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


def test_volo_d1_of_other_options(tmp_path):
    d1 = dict(layers=[4, 4, 8, 2], embed_dims=[192, 384, 384, 384], num_heads=[6, 12, 12, 12])
    _, saved = save(tmp_path / 'in.pth', volo_config(
        dict(in_channels=384, dense_weight=0), arch=d1, img_size=64, patch_size=8))
    theirs = reference_volo(saved, img_size=64, use_aux_head=False, **d1)
    export = export_checkpoint(tmp_path / 'in.pth', tmp_path / 'out.pth', 'timm')
    assert 'timm.models.volo.VOLO(' in export.code[0] and 'img_size=64' in export.code[0]
    assert_same(theirs, run_code(export.code), size=64)
    export = export_checkpoint(tmp_path / 'in.pth', tmp_path / 'out.pth', 'mmpretrain')
    for option in ("'model_name': 'volo_d1_224'", "'img_size': 64", "'use_aux_head': False"):
        assert option in export.code[0]
    assert_same(theirs, run_code(export.code), size=64)


# ----------------------------------------------------------------- checkpoints


def export_micro(tmp_path, format='mmpretrain', model_config=None, **changes):
    save(tmp_path / 'in.pth', model_config or deit_config(), **changes)
    return export_checkpoint(tmp_path / 'in.pth', tmp_path / 'out.pth', format)


def test_unfinished_run(tmp_path):
    for awake in ((1, 32), (2, 16), (1, 16)):
        with pytest.raises(ValueError, match=r'not finished: only Subnet\(depth={}, resolution={}\)'
                           r' of Subnet\(depth=2, resolution=32\) was awake'.format(*awake)):
            export_micro(tmp_path, autoprog=dict(subnet=awake))
    for state in ({}, dict(subnet=3), dict(subnet=(1, 2, 3)), [1]):
        with pytest.raises(ValueError, match="'autoprog' state names no subnet"):
            export_micro(tmp_path, autoprog=state)
    assert os.listdir(tmp_path) == ['in.pth']


def test_best_and_foreign_checkpoints(tmp_path):
    assert export_micro(tmp_path, optimizer=None, message_hub=None).difference <= 1e-5
    # Of stock mmpretrain: without our state, of its own class.
    config = deit_config()
    config['backbone']['type'] = 'VisionTransformer'
    config['data_preprocessor']['type'] = 'ClsDataPreprocessor'
    model, _ = save(tmp_path / 'in.pth', config, online_state_dict=None, autoprog=None)
    export = export_checkpoint(tmp_path / 'in.pth', tmp_path / 'out.pth', 'timm')
    assert_same(model, run_code(export.code))


def test_views_and_half_precision(tmp_path):
    model, saved = save(tmp_path / 'in.pth', deit_config())
    weights = {name: value.half() for name, value in saved['state_dict'].items()}
    bias = weights['head.layers.head.bias']
    weights['head.layers.head.bias'] = torch.cat([bias, torch.zeros(4_000_000).half()])[:4]
    torch.save(dict(saved, state_dict=weights), tmp_path / 'in.pth')
    export = export_checkpoint(tmp_path / 'in.pth', tmp_path / 'out.pth', 'timm')
    assert (tmp_path / 'in.pth').stat().st_size > 8e6 > 1e5 > (tmp_path / 'out.pth').stat().st_size
    torch.testing.assert_close(
        logits(run_code(export.code)), logits(model), rtol=1e-2, atol=1e-2)


class Trap:

    def __reduce__(self):
        return builtins.open, ('touched', 'w')


def write_bad(path, kind):
    if kind == 'a folder':
        path.mkdir()
    elif kind == 'a text':
        path.write_text('hello world\n')
    elif kind == 'empty':
        path.write_bytes(b'')
    elif kind in ('truncated', 'truncated legacy'):
        torch.save(dict(state_dict=dict(a=torch.ones(9999))), path,
                   _use_new_zipfile_serialization=kind == 'truncated')
        path.write_bytes(path.read_bytes()[:9999])
    elif kind == 'a pickle':
        path.write_bytes(pickle.dumps(dict(state_dict=Trap())))
    elif kind in ('objects', 'legacy objects'):
        torch.save(dict(state_dict=dict(a=torch.ones(2)), meta=Trap()), path,
                   _use_new_zipfile_serialization=kind == 'objects')
    elif kind == 'a tensor':
        torch.save(torch.ones(2), path)
    elif kind == 'a state dict':
        torch.save(dict(a=torch.ones(2)), path)
    elif kind == 'no tensors':
        torch.save(dict(state_dict=dict(a=1)), path)


@pytest.mark.parametrize('kind, message', [
    ('missing', 'there is no file'),
    ('a folder', 'there is no file'),
    ('a text', 'is no whole checkpoint of torch'),
    ('empty', 'is no whole checkpoint of torch'),
    ('truncated', 'is no whole checkpoint of torch'),
    ('truncated legacy', 'is no whole checkpoint of torch'),
    ('a pickle', 'is no whole checkpoint of torch|could run code'),
    ('objects', r'holds objects that could run code when loaded \((_?io|builtins)\.open\)'),
    ('legacy objects', r'holds objects that could run code when loaded \((_?io|builtins)\.open\)'),
    ('a tensor', "no 'state_dict' of tensors"),
    ('a state dict', "no 'state_dict' of tensors"),
    ('no tensors', "no 'state_dict' of tensors"),
])
def test_no_checkpoint(tmp_path, monkeypatch, kind, message):
    monkeypatch.chdir(tmp_path)
    write_bad(tmp_path / 'in.pth', kind)
    with pytest.raises(ValueError, match=f'^CKPT: .*({message})') as caught:
        export_checkpoint('in.pth', 'out.pth', 'timm')
    # No stack of torch below it.
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    message = str(caught.value)
    assert "'in.pth'" in message and '\n' not in message and len(message) < 300
    assert set(os.listdir(tmp_path)) <= {'in.pth'}


class Allowed:
    pass


def test_allow_list_is_empty_while_loading(tmp_path):
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([Allowed])
    try:
        with pytest.raises(ValueError, match='could run code when loaded .*Allowed'):
            export_micro(tmp_path, message_hub=Allowed())
        assert Allowed in torch.serialization.get_safe_globals()
        assert set(torch.serialization.get_safe_globals()) == {*before, Allowed}
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


# --------------------------------------------------------------------- configs


def dump(path, model_config):
    Config(dict(model=model_config)).dump(path)
    return str(path)


def test_config_of_the_checkpoint_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evil = "import os\nos.system('touch touched')\nmodel = 1\n"
    with pytest.raises(ValueError, match="Line 1 of the config .*'import os'.*--config"):
        export_micro(tmp_path, meta=dict(cfg=evil))
    config = dump(tmp_path / 'config.py', deit_config())
    export_checkpoint(tmp_path / 'in.pth', tmp_path / 'out.pth', 'timm', config)
    assert sorted(os.listdir(tmp_path)) == ['config.py', 'in.pth', 'out.pth']


@pytest.mark.parametrize('meta', [None, {}, dict(epoch=1), [1]])
def test_without_a_config(tmp_path, meta):
    with pytest.raises(ValueError, match='CKPT: .*brings no config along.*--config'):
        export_micro(tmp_path, meta=meta)
    config = dump(tmp_path / 'config.py', deit_config())
    export_checkpoint(tmp_path / 'in.pth', tmp_path / 'out.pth', 'mmpretrain', config)
    with pytest.raises(ValueError, match="--config: there is no file 'missing.py'"):
        export_checkpoint(tmp_path / 'in.pth', tmp_path / 'out.pth', 'timm', 'missing.py')


@pytest.mark.parametrize('config, message', [
    (deit_config(img_size=64),
     r'backbone.pos_embed is of shape \(1, 17, 16\) instead of \(1, 65, 16\)\.'),
    (deit_config(dict(num_classes=5)),
     r'head.layers.head.weight is of shape \(4, 16\) instead of \(5, 16\), head.layers.head.bias'),
    (deit_config(qkv_bias=False),
     r'backbone.layers.0.attn.qkv.bias is not in the model, backbone.layers.1.attn.qkv.bias is'),
    (deit_config(arch=dict(WIDTHS, num_layers=3)),
     r'backbone.layers.2.*bias is missing, .*and 7 keys more'),
    (volo_config(), 'backbone.layers.0.* is not in the model, .* keys more'),
])
def test_config_of_another_model(tmp_path, config, message):
    save(tmp_path / 'in.pth', deit_config())
    config = dump(tmp_path / 'config.py', config)
    with pytest.raises(ValueError, match=f'not of the config.*--config.*: .*{message}'):
        export_checkpoint(tmp_path / 'in.pth', tmp_path / 'out.pth', 'mmpretrain', config)
    assert not (tmp_path / 'out.pth').exists()


# ------------------------------------------------------------- check and output


def swap_norms(monkeypatch):
    """A mapping that loads strictly and is wrong."""
    wrong = export_targets._DEIT_NAMES + ((r'\.norm1\.', '.norm9.'), (r'\.norm2\.', '.norm1.'),
                                          (r'\.norm9\.', '.norm2.'))
    monkeypatch.setattr(export_targets, '_DEIT_NAMES', wrong)


def test_check_sees_a_wrong_mapping(tmp_path, monkeypatch):
    swap_norms(monkeypatch)
    with pytest.raises(ValueError, match='does not give the logits .*Nothing was written'):
        export_micro(tmp_path, 'timm')
    assert os.listdir(tmp_path) == ['in.pth']
    (tmp_path / 'out.pth').write_text('of before')
    with pytest.raises(ValueError, match='does not give the logits'):
        export_micro(tmp_path, 'timm')
    assert sorted(os.listdir(tmp_path)) == ['in.pth', 'out.pth']
    assert (tmp_path / 'out.pth').read_text() == 'of before'


def test_check_sees_a_wrong_name(tmp_path, monkeypatch):
    monkeypatch.setattr(export_targets, '_DEIT_NAMES', export_targets._DEIT_NAMES[1:])
    with pytest.raises(ValueError, match='builds another model: blocks.0.*is missing'):
        export_micro(tmp_path, 'timm')
    assert os.listdir(tmp_path) == ['in.pth']


def test_check_sees_a_wrong_option(tmp_path, monkeypatch):
    monkeypatch.setattr(export_targets, '_TIMM_EPS', 1e-2)  # the eps that timm is said to have
    with pytest.raises(ValueError, match='does not give the logits'):
        export_micro(tmp_path, 'timm', deit_config(norm_cfg=dict(type='LN', eps=1e-2)))


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_check_sees_what_is_not_finite(tmp_path, value):
    _, saved = save(tmp_path / 'in.pth', deit_config())
    saved['state_dict']['backbone.pos_embed'][0, 3, 2] = value
    torch.save(saved, tmp_path / 'in.pth')
    with pytest.raises(ValueError, match='differ by up to nan'):
        export_checkpoint(tmp_path / 'in.pth', tmp_path / 'out.pth', 'mmpretrain')
    assert os.listdir(tmp_path) == ['in.pth']


def test_check_is_of_the_file(tmp_path, monkeypatch):
    """What was written is read back, and not what was meant to be."""
    save(tmp_path / 'in.pth', deit_config())
    real_save, written = torch.save, []

    def spoil(content, file):
        written.append(file.name)
        real_save(dict(content, **{'head.weight': content['head.weight'] * 1.001}), file)

    monkeypatch.setattr(torch, 'save', spoil)
    with pytest.raises(ValueError, match='does not give the logits'):
        export_checkpoint(tmp_path / 'in.pth', tmp_path / 'out.pth', 'timm')
    assert [os.path.dirname(path) for path in written] == [str(tmp_path)]
    assert str(tmp_path / 'out.pth') not in written and os.listdir(tmp_path) == ['in.pth']


def test_output(tmp_path):
    save(tmp_path / 'in.pth', deit_config())
    out = tmp_path / 'new' / 'folder' / 'out.pth'
    export = export_checkpoint(tmp_path / 'in.pth', out, 'timm')
    assert export.path == str(out) and os.listdir(out.parent) == ['out.pth']
    first = load(out)
    out.write_text('something else')
    export_checkpoint(tmp_path / 'in.pth', out, 'timm')
    assert differences(load(out), first) == []
    assert os.listdir(out.parent) == ['out.pth']

    for bad, message in ((tmp_path, 'is a folder'), (tmp_path / 'in.pth', 'the checkpoint itself'),
                         (tmp_path / 'in.pth' / 'out.pth', 'cannot be written')):
        with pytest.raises(ValueError, match=f'OUT.*{message}'):
            export_checkpoint(tmp_path / 'in.pth', bad, 'timm')
    assert sorted(os.listdir(tmp_path)) == ['in.pth', 'new']
    with pytest.raises(ValueError, match=r"--format must be one of \('timm', 'mmpretrain'\)"):
        export_checkpoint(tmp_path / 'in.pth', out, 'onnx')
