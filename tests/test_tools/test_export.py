# Copyright (c) the autoprog_mm authors. All rights reserved.
"""`tools/export.py`, as a user runs it."""
import builtins
import os
from pathlib import Path

import pytest
import timm
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS

from tests.forked import run_script
from tests.micro import load, micro_config, run

TOOL = Path(__file__).parents[2] / 'tools' / 'export.py'


def call(*args, cwd=None):
    done = run_script(TOOL, *args, cwd=cwd)
    return done.returncode, done.stdout


@pytest.fixture(scope='module')
def work_dir(jpeg_root, tmp_path_factory):
    """A real run of two stages of one epoch each, both checkpoints kept."""
    work_dir = tmp_path_factory.mktemp('run')
    # As in a config file, with what a config of the user's imports.
    cfg = micro_config(
        jpeg_root, work_dir, train_cfg__max_epochs=2, custom_hooks__0__num_stages=2)
    cfg.custom_imports = dict(imports=['autoprog_mm'], allow_failed_imports=False)
    run(cfg)
    return work_dir


def images(size):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(3))


def load_as_told(output):
    """Run the lines that the tool gives, and no others."""
    lines = output.split('Load it with:\n')[1].rstrip('\n').split('\n')
    assert 1 <= len(lines) <= 2
    names = {}
    exec('\n'.join(lines), names)
    return names['model'].eval()


def stock_logits(path, backbone, head, size):
    """Of mmpretrain's own classes with a checkpoint's weights."""
    model = MODELS.build(dict(type='ImageClassifier', backbone=backbone, head=head)).eval()
    model.load_state_dict(load(path)['state_dict'], strict=True)
    with torch.no_grad():
        return model(images(size))


@pytest.mark.parametrize('format', ['timm', 'mmpretrain'])
def test_real_run(work_dir, tmp_path, format):
    checkpoint = work_dir / 'epoch_2.pth'
    status, output = call(checkpoint, 'out.pth', '--format', format, cwd=tmp_path)
    assert status == 0, output
    assert f'Wrote {tmp_path}/out.pth, which {format} loads strictly.' in output
    assert 'Largest difference of logits: ' in output
    assert 'mean=[110.0, 110.0, 110.0], std=[60.0, 60.0, 60.0], to_rgb=True' in output
    expected = stock_logits(
        checkpoint,
        dict(type='VisionTransformer', img_size=32, patch_size=8,
             arch=dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=32)),
        dict(type='VisionTransformerClsHead', num_classes=4, in_channels=16), 32)
    with torch.no_grad():
        got = load_as_told(output)(images(32))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert os.listdir(tmp_path) == ['out.pth']


def test_unfinished_run(work_dir, tmp_path):
    status, output = call(
        work_dir / 'epoch_1.pth', tmp_path / 'out.pth', '--format', 'timm')
    assert status != 0 and output.rstrip().split('\n')[-1].startswith(
        'export.py: error: CKPT: the run is not finished: only 2x16 of 4x32 was awake')
    assert os.listdir(tmp_path) == []


def test_volo_by_config(tmp_path):
    arch = dict(layers=(2, 2, 1, 1), embed_dims=(8, 16, 16, 16), num_heads=(1, 2, 2, 2))
    backbone = dict(type='ElasticVOLO', arch=arch, img_size=32, patch_size=4)
    head = dict(type='VOLOHead', num_classes=7, in_channels=16)
    cfg = Config(dict(model=dict(type='ImageClassifier', backbone=backbone, head=head)))
    cfg.dump(tmp_path / 'config.py')
    model = MODELS.build(cfg.model)
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'in.pth')
    status, output = call(tmp_path / 'in.pth', tmp_path / 'new' / 'out.pth',
                          '--format', 'timm', '--config', tmp_path / 'config.py')
    assert status == 0, output
    theirs = load_as_told(output)
    assert type(theirs) is timm.models.volo.VOLO
    with torch.no_grad():
        torch.testing.assert_close(
            theirs(images(32)), model.eval()(images(32)), rtol=1e-4, atol=1e-5)


class Trap:

    def __reduce__(self):
        return builtins.exec, ("open('touched', 'w').close()", )


def test_bad_file(tmp_path):
    torch.save(dict(state_dict=Trap()), tmp_path / 'in.pth')
    status, output = call('in.pth', 'out.pth', '--format', 'timm', cwd=tmp_path)
    assert status != 0 and 'Traceback' not in output
    assert "error: CKPT: 'in.pth' has no weights" in output
    assert os.listdir(tmp_path) == ['in.pth']
