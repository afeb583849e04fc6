# Copyright (c) the autoprog_mm authors. All rights reserved.
import math
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from mmpretrain.models import VisionTransformer, VisionTransformerClsHead
from mmpretrain.registry import MODELS

from autoprog_mm import Subnet
from autoprog_mm.export.literal_config import build_literal_model, read_literal_config
from autoprog_mm.models import ElasticDeiT, ElasticVOLO, VOLOHead

CONFIGS = sorted(Path(__file__).parents[2].glob('configs/*/*.py'))
FORMATTED = ('deit-s_in1k.py', 'volo-d1_tokenlabel_in1k.py', 'deit-micro_prog_mnist5k.py')


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A folder in which a file `touched` appears if a text or a type of it runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / 'trap_module.py').write_text(
        "open('touched', 'w').close()\n\n\nclass Trap:\n    pass\n")
    yield tmp_path
    sys.modules.pop('trap_module', None)


# -------------------------------------------------------------------- reading


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.name)
def test_reads_what_mmengine_dumps(path, formatted_configs):
    cfg = Config.fromfile(path)
    cfg._format_python_code = path.name in FORMATTED  # which takes a second
    assert read_literal_config(cfg.pretty_text) == cfg.to_dict()


def test_reads_all_that_is_literal():
    text = '''
# a comment
a = 1
b = -2.5
c = [None, True, (1, ), (), [], dict()]
d = dict(x='it\\'s', y=dict(z=-inf))
e = {'not a name': 1, 3: dict({'.bias': dict(decay_mult=0.0)}), -1: inf}
f = 'glued' ' together'
g = b'bytes'
'''
    assert read_literal_config(text) == dict(
        a=1,
        b=-2.5,
        c=[None, True, (1, ), (), [], {}],
        d=dict(x="it's", y=dict(z=-math.inf)),
        e={'not a name': 1, 3: {'.bias': dict(decay_mult=0.)}, -1: math.inf},
        f='glued together',
        g=b'bytes')
    assert type(read_literal_config('a = True')['a']) is bool
    assert math.isnan(read_literal_config('a = nan')['a'])
    assert read_literal_config('') == {}


def test_strings_stay_as_they_are(trap, monkeypatch):
    monkeypatch.setenv('HOME_OF', 'somebody')
    text = (
        "custom_imports = dict(allow_failed_imports=False, imports=['trap_module'])\n"
        "work_dir = '{{ fileDirname }}/{{$HOME_OF:x}}/${HOME_OF}/{work_dir}'\n"
        "_base_ = ['mmpretrain::nothing.py']\n")
    config = read_literal_config(text)
    assert config == dict(
        custom_imports=dict(allow_failed_imports=False, imports=['trap_module']),
        work_dir='{{ fileDirname }}/{{$HOME_OF:x}}/${HOME_OF}/{work_dir}',
        _base_=['mmpretrain::nothing.py'])
    assert 'trap_module' not in sys.modules


TOUCH = "__import__('os').system('touch touched')"


@pytest.mark.parametrize('statement', [
    f'model = {TOUCH}',
    f'model = dict(type={TOUCH})',
    f'model = dict([("type", {TOUCH})])',
    f'model = {{{TOUCH}: 1}}',
    f'model = f"{{{TOUCH}}}"',
    f'model = [{TOUCH} for _ in (1, )]',
    f'model = (lambda: {TOUCH})()',
    f'model = [*{TOUCH}]',
    f'model = {{**{TOUCH}}}',
    f'model = dict(**{TOUCH})',
    f'model = dict(*{TOUCH})',
    f'model = dict({{"a": 1}}, b={TOUCH})',
    f'model = -{TOUCH}',
    f'model = 1 if {TOUCH} else 2',
    f'model = (x := {TOUCH})',
    f'model: {TOUCH} = 1',
    f'model[{TOUCH}] = 1',
    f'model = other = {TOUCH}',
    f'model += {TOUCH}',
    f'assert {TOUCH}',
    TOUCH,
    'import trap_module',
    'from trap_module import Trap as model',
    'model = trap_module.Trap',
    'model = open("touched", "w")',
    'def model(): pass',
    'dict = 1; model = print(1)',
    'model = other',
    'model = 1 + 1',
    'model = other = 1',
    'model = dict(**{})',
    'model = {**{}}',
    'model = +1',
    'model = ~1',
    'model = -True',
    'model = -"a"',
    'model = {1, 2}',
    'model = {(1, 2): 3}',
    'model = 1j',
    'model = ...',
    'model = "%s" % 1',
    'model, other = 1, 2',
    'model.type = 1',
    'del model',
])
def test_runs_nothing(trap, statement):
    with pytest.raises(ValueError, match=r'Line 2 of the config .*has no plain value .*--config'):
        read_literal_config(f'before = 1\n{statement}\nafter = 2\n')
    assert not (trap / 'touched').exists()


def test_the_trap_works(trap):
    exec(f'model = {TOUCH}')
    assert (trap / 'touched').exists()
    (trap / 'touched').unlink()
    MODELS.get('trap_module.Trap')  # mmengine imports it
    assert (trap / 'touched').exists()


@pytest.mark.parametrize('text, message', [
    ('a = 1\r\nb = f()\r\n', r"Line 2 of .*'b = f\(\)', has no plain value \(Call\)"),
    ('a = 1\rb = f()', r"Line 2 of .*'b = f\(\)'"),
    ('a = "\f\x0b\x1c"\nb = f()', r"Line 2 of .*'b = f\(\)'"),
    ('a = dict(\n    b=1,\n    c=f(),\n)', r"Line 3 of .*'c=f\(\),'"),
    ('a = 1\nb = (', 'Line 2 of .*is no Python'),
    ('a = (\n\n', 'Line [123] of .*is no Python'),
    ('a = 1\na = 2', "Line 2 of .*gives 'a' a second value"),
    ('a = dict(b=1,\n  b=2)', "Line 2 of .*gives 'b' a second value"),
    ("a = {'b': 1, 'b': 2}", "Line 1 of .*gives 'b' a second value"),
    ('a = 1\0', 'Line 1 of .*is no Python'),
    ('a = "\ud800"', 'Line 1 of .*is no Python'),
    ('a = ' + '[' * 3000 + ']' * 3000, r'Line 1 of .*\[\.\.\.'),
    ('a = ' + '-' * 100000 + '1', 'Line 1 of .*nested too deeply'),
    ('a = ' + '-' * 2000 + '1', 'Line 1 of .*nested too deeply'),
    ('a' + '.b' * 100000 + ' = 1', 'Line 1 of .*nested too deeply'),
    ('a = ' + '9' * 10000, r'Line 1 of .*9\.\.\.'),
    (dict(a=1), 'must be a text, but is a dict'),
    (None, 'must be a text, but is a NoneType'),
])
def test_says_where_and_why(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_literal_config(text)
    assert '--config' in str(caught.value) and len(str(caught.value)) < 500


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
    built = build_literal_model(config)
    assert type(built.model.backbone) is ElasticDeiT
    assert type(built.model.head) is VisionTransformerClsHead
    assert not built.model.training
    assert built.model.backbone.full_subnet == Subnet(2, 16)
    assert built.model.backbone.layers[0].attn.qkv.bias is None
    assert 'drop_path_rate' not in built.backbone and built.backbone['qkv_bias'] is False
    assert built.images == {}

    config = dict(model=volo(channels_last=True),
                  data_preprocessor=dict(mean=[1, 2, 3], std=[4, 5, 6], x=7))
    built = build_literal_model(config)
    assert type(built.model.backbone) is ElasticVOLO and type(built.model.head) is VOLOHead
    assert built.images == dict(mean=[1, 2, 3], std=[4, 5, 6])
    config['model']['data_preprocessor'] = dict(mean=[9.], to_rgb=True)
    assert build_literal_model(config).images == dict(mean=[9.], to_rgb=True)


def test_same_as_the_stock_backbone():
    config = deit()
    config['backbone']['type'] = 'VisionTransformer'
    ours = build_literal_model(dict(model=config)).model.backbone.state_dict()
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
        build_literal_model(dict(model=config))
    assert 'trap_module' not in sys.modules and not (trap / 'touched').exists()


def test_layers_of_a_list_are_checked_too(trap):
    config = deit(layer_cfgs=[{}, dict(act_cfg=dict(type=EVIL))])
    with pytest.raises(ValueError, match=r'layer_cfgs\[1\]\.act_cfg\.type'):
        build_literal_model(dict(model=config))
    assert 'trap_module' not in sys.modules


def test_what_only_training_needs_is_not_built(trap):
    config = deit()
    config['head']['loss'] = dict(type=EVIL)
    config['train_cfg'] = dict(augments=[dict(type=EVIL)])
    config['data_preprocessor'] = dict(type=EVIL, mean=[0.], batch_augments=dict(type=EVIL))
    assert build_literal_model(dict(model=config)).images == dict(mean=[0.])
    assert 'trap_module' not in sys.modules


def test_config_based_on_a_package_is_built(trap):
    cfg = Config.fromstring("_base_ = 'mmpretrain::deit/deit-tiny_4xb256_in1k.py'", '.py')
    cfg.model.backbone.type = 'ElasticDeiT'
    config = read_literal_config(cfg.pretty_text)
    assert config['model']['_scope_'] == 'mmpretrain'  # noted by mmengine
    for part in (config['model'], config['model']['backbone'], config['model']['head']):
        part['_scope_'] = 'trap_module'  # and not looked at here
    assert build_literal_model(config).model.backbone.full_subnet == Subnet(12, 224)
    assert 'trap_module' not in sys.modules


def test_loads_no_other_file(tmp_path):
    pretrained = dict(type='Pretrained', checkpoint=str(tmp_path / 'missing.pth'))
    config = deit(init_cfg=pretrained, layer_cfgs=dict(init_cfg=pretrained),
                  patch_cfg=dict(init_cfg=pretrained))
    config.update(init_cfg=[pretrained], pretrained=str(tmp_path / 'missing.pth'))
    config['head']['init_cfg'] = pretrained
    model = build_literal_model(dict(model=config)).model
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
        build_literal_model(dict(model={**deit(), **change}))


@pytest.mark.parametrize('options, message', [
    (dict(depth=3), r"model.backbone has options \['depth'\]"),
    (dict(out_type='raw'), "out_type must be 'cls_token' or 'avg_featmap' .*'raw'"),
    (dict(out_indices=0), 'model.backbone cannot be built .*out_indices must be -1'),
    (dict(with_cls_token=False), 'model.backbone cannot be built .*with_cls_token'),
    (dict(layer_cfgs=3), 'model.backbone cannot be built'),
])
def test_refuses_other_options(options, message):
    with pytest.raises(ValueError, match=message):
        build_literal_model(dict(model=deit(**options)))


def test_needs_a_model():
    with pytest.raises(ValueError, match='must have a dict model, but has None.*--config'):
        build_literal_model(dict(a=1))
