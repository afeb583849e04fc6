# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Which checkpoints are exported, and how the file is checked and written."""
import builtins
import os
import pickle

import pytest
import torch
from mmengine.config import Config

from autoprog_mm.export import targets as export_targets
from autoprog_mm.export.checkpoint import export_checkpoint
from tests.micro import differences, load
from tests.test_export.models import (
    WIDTHS,
    assert_same,
    deit_config,
    logits,
    run_code,
    save,
    volo_config,
)

# ----------------------------------------------------------------- checkpoints


def export_micro(tmp_path, format='mmpretrain', config=None, **changes):
    save(tmp_path / 'in.pth', config or deit_config(), **changes)
    return export_checkpoint(tmp_path / 'in.pth', tmp_path / 'out.pth', format)


def test_unfinished_run(tmp_path):
    for awake in ((1, 32), (2, 16), (1, 16)):
        with pytest.raises(ValueError, match=r'not finished: only {}x{}'
                           r' of 2x32 was awake'.format(*awake)):
            export_micro(tmp_path, autoprog=dict(
                subnet=awake, stages=[[0, 4, 1, 16], [4, 8, 2, 32]]))
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
    elif kind == 'legacy objects':
        torch.save(dict(state_dict=dict(a=torch.ones(2)), meta=Trap()), path,
                   _use_new_zipfile_serialization=False)
    elif kind == 'a tensor':
        torch.save(torch.ones(2), path)
    elif kind == 'objects as weights':
        torch.save(dict(state_dict=Trap()), path)
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
    ('legacy objects', r'holds objects that could run code when loaded \((_?io|builtins)\.open\)'),
    ('a tensor', 'has no weights'),
    ('objects as weights', 'has no weights'),
    ('no tensors', 'has no weights'),
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

    def __init__(self):
        self.something = 1

    def __setstate__(self, state):
        raise AssertionError('it ran')


def test_nothing_that_is_allowed_elsewhere_runs(tmp_path):
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([Allowed])
    try:
        torch.save(Allowed(), tmp_path / 'it.pth')
        with pytest.raises(AssertionError, match='it ran'):
            torch.load(tmp_path / 'it.pth', weights_only=True)
        assert export_micro(tmp_path, message_hub=Allowed(), meta=Trap()).difference <= 1e-5
        assert Allowed in torch.serialization.get_safe_globals()
        assert set(torch.serialization.get_safe_globals()) == {*before, Allowed}
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


# --------------------------------------------------------------------- configs


def dump(path, model_config):
    Config(dict(model=model_config)).dump(path)
    return str(path)


@pytest.mark.parametrize('changes', [
    dict(model_config=None), dict(model_config=None, meta=None), dict(model_config=[1])])
def test_without_a_config(tmp_path, monkeypatch, changes):
    """As of older versions and other libraries; what is there of Python is not run."""
    monkeypatch.chdir(tmp_path)
    evil = "import os\nos.system('touch touched')\nmodel = 1\n"
    with pytest.raises(ValueError, match='CKPT: .*does not say what its model is .*--config'):
        export_micro(tmp_path, **{'meta': dict(cfg=evil), **changes})
    config = dump(tmp_path / 'config.py', deit_config())
    export_checkpoint(tmp_path / 'in.pth', tmp_path / 'out.pth', 'mmpretrain', config)
    assert sorted(os.listdir(tmp_path)) == ['config.py', 'in.pth', 'out.pth']
    with pytest.raises(ValueError, match="--config: there is no file 'missing.py'"):
        export_checkpoint(tmp_path / 'in.pth', tmp_path / 'out.pth', 'timm', 'missing.py')


def test_config_of_unknown_parts(tmp_path):
    config = deit_config()
    config['backbone']['type'] = 'evil.module.Backbone'
    with pytest.raises(ValueError, match="must be one of .*'evil.module.Backbone'; nothing else"):
        export_micro(tmp_path, model_config=dict(model=config))
    assert os.listdir(tmp_path) == ['in.pth']


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
    wrong = export_targets.DEIT_NAMES + ((r'\.norm1\.', '.norm9.'), (r'\.norm2\.', '.norm1.'),
                                          (r'\.norm9\.', '.norm2.'))
    monkeypatch.setattr(export_targets, 'DEIT_NAMES', wrong)


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
    monkeypatch.setattr(export_targets, 'DEIT_NAMES', export_targets.DEIT_NAMES[1:])
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
