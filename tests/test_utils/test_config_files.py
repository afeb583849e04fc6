# Copyright (c) the autoprog_mm authors. All rights reserved.
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from autoprog_mm import overlay
from autoprog_mm.utils.config_files import read_config, with_names

ROOT = Path(__file__).parents[2]
# One config in both styles.
IMPORTS = '''
from torch.optim import AdamW
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import DefaultSampler, default_collate
from mmpretrain.engine import EMAHook
from mmengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper
from mmpretrain.datasets import ImageNet, PackInputs, RandomResizedCrop
from mmpretrain.engine.optimizers import LearningRateDecayOptimWrapperConstructor
from mmpretrain.models import ImageClassifier, VisionTransformer, VisionTransformerClsHead
'''
BODY = '''
model = dict(
    type={ImageClassifier},
    backbone=dict(type={VisionTransformer}, arch='deit-tiny', img_size=32, patch_size=8),
    head=dict(type={VisionTransformerClsHead}, num_classes=4, in_channels=192))
data_preprocessor = dict(num_classes=4, mean=[110.] * 3, std=[60.] * 3, to_rgb=True)
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    collate_fn=dict(type={default_collate}),
    sampler=dict(type={DefaultSampler}, shuffle=True),
    dataset=dict(type={ImageNet}, data_root='data', split='train', pipeline=[
        dict(type={LoadImageFromFile}), dict(type={RandomResizedCrop}, scale=32),
        dict(type={PackInputs})]))
optim_wrapper = dict(
    type={OptimWrapper}, optimizer=dict(type={AdamW}, lr=1e-3, betas=(0.9, 0.95)),
    constructor={LearningRateDecayOptimWrapperConstructor},
    paramwise_cfg=dict(layer_decay_rate=0.7))
param_scheduler = [dict(type={LinearLR}, end=1), dict(type={CosineAnnealingLR}, begin=1, end=4)]
train_cfg = dict(by_epoch=True, max_epochs=4)
custom_hooks = [dict(type={EMAHook}, momentum=1e-3)]
'''
NAMES = [name.strip() for line in IMPORTS.strip().splitlines()
         for name in line.partition('import ')[2].split(',')]


def write(path, classes):
    """Write the config, with classes or their names."""
    text = BODY.format(**{name: name if classes else repr(name) for name in NAMES})
    path.write_text(IMPORTS + text if classes else f"default_scope = 'mmpretrain'\n{text}")
    return str(path)


def test_new_style_is_read_as_the_other(tmp_path):
    new, old = (read_config(write(tmp_path / f'{name}.py', name == 'new'))
                for name in ('new', 'old'))
    assert Config._is_lazy_import(new.filename) and not Config._is_lazy_import(old.filename)
    assert new.to_dict() == old.to_dict()
    # What a run saves in its work directory can be read by any tool.
    assert Config.fromstring(new.pretty_text, '.py').to_dict() == old.to_dict()


def test_overlay_of_the_new_style(tmp_path):
    options = dict(num_stages=2, search=None)
    new, old = (overlay(Config.fromfile(write(tmp_path / f'{name}.py', name == 'new')), **options)
                for name in ('new', 'old'))
    assert new.to_dict() == old.to_dict()
    assert new.model.backbone.type == 'ElasticDeiT'


def test_based_on_another_of_the_new_style(tmp_path):
    write(tmp_path / 'base.py', True)
    path = tmp_path / 'mine.py'
    path.write_text('''
from mmengine.config import read_base
from torch.optim import SGD
with read_base():
    from .base import *
optim_wrapper.update(optimizer=dict(_delete_=True, type=SGD, lr=0.1))
train_cfg['max_epochs'] = 7
''')
    cfg = read_config(str(path))
    assert cfg.optim_wrapper.optimizer.type == 'SGD' and cfg.train_cfg.max_epochs == 7
    assert cfg.model.backbone.type == 'VisionTransformer' and 'custom_imports' not in cfg


def test_parts_of_other_modules(tmp_path, monkeypatch):
    """Ours, which registries know, and the user's own, which they need not know."""
    (tmp_path / 'own_parts.py').write_text('''
from mmengine.hooks import Hook
class OwnHook(Hook):
    class Part:
        pass
def own_function():
    pass
''')
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'mine.py').write_text('''
import own_parts
from autoprog_mm.engine import AutoProgHook
from autoprog_mm.growth.operators import IdentityInit
custom_hooks = [dict(type=own_parts.OwnHook, a=own_parts.OwnHook.Part, b=own_parts.own_function),
                dict(type=AutoProgHook)]
optim_wrapper = dict(growth=dict(type=IdentityInit))
''')
    cfg = read_config(str(tmp_path / 'mine.py'))
    assert cfg.to_dict() == dict(
        custom_hooks=[
            dict(type='own_parts.OwnHook', a='own_parts.OwnHook.Part', b='own_parts.own_function'),
            dict(type='AutoProgHook')],
        optim_wrapper=dict(growth=dict(type='IdentityInit')), default_scope='mmpretrain',
        custom_imports=dict(imports=['autoprog_mm', 'own_parts']))


def test_config_with_names_stays_as_it_is(tmp_path):
    cfg = Config.fromfile(write(tmp_path / 'old.py', False))
    assert with_names(cfg) is cfg


def test_part_that_another_hides(tmp_path):
    """mmpretrain has an EMAHook of its own, which its name means."""
    path = tmp_path / 'mine.py'
    path.write_text('from mmengine.hooks import EMAHook\ncustom_hooks = [dict(type=EMAHook)]')
    assert read_config(str(path)).custom_hooks == [dict(type='mmengine.hooks.ema_hook.EMAHook')]


def test_of_another_scope(tmp_path):
    path = tmp_path / 'other.py'
    path.write_text("from torch.optim import SGD\ndefault_scope = 'mmdet'\na = dict(type=SGD)")
    assert read_config(str(path)).to_dict() == dict(
        default_scope='mmdet', a=dict(type='torch.optim.sgd.SGD'))


BROKEN = {
    'base': ("_base_ = './gone.py'", r'No such file .*gone\.py'),
    'syntax': ('a = 1\nb = (', 'never closed.*line 2'),
    'name': ('a = b', "NameError: name 'b' is not defined"),
    'program': ('a = 1 / 0', 'ZeroDivisionError: division by zero'),
    'both styles': ('from mmengine.hooks import Hook\n_base_ = "other.py"\na = dict(type=Hook)',
                    'lazy_import'),
    'import': ('from mmengine.hooks import Hok\na = dict(type=Hok)',
               'a.type: Failed to import Hok from mmengine.hooks'),
    'module': ('import no_such_module\na = dict(type=no_such_module.A)', 'no_such_module'),
    'custom import': (
        "custom_imports = dict(imports=['no_such_module'])",
        "ModuleNotFoundError: No module named 'no_such_module'. Install what is missing, or name"),
    'import of an import': (
        "custom_imports = dict(imports=['half'])", "No module named 'no_such_module'. Install"),
    'environment': ('a = {{$NOT_SET_HERE:1}}', r"Write variables .* as {{'\$NAME:default'}}"),
    'variable': ("a = '{{$NOT_SET_HERE:}}'\nb = '{{_base_.c}}'", 'cannot be read'),
}


@pytest.mark.parametrize('name', BROKEN)
def test_config_that_cannot_be_read(tmp_path, name, monkeypatch):
    text, reason = BROKEN[name]
    (tmp_path / 'half.py').write_text('import no_such_module')
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'other.py').write_text('c = 1')
    path = tmp_path / 'mine.py'
    path.write_text(text)
    with pytest.raises(ValueError, match=reason) as raised:
        read_config(str(path))
    assert str(raised.value).startswith('config: ') and '\n' not in str(raised.value)


@pytest.mark.parametrize('name', [
    'configs/autoprog/deit-s_in1k.py', 'deit-s_in1k.py', 'prog/deit_s_in1k.py'])
def test_own_config_from_another_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r'there is no file .*\. Did you mean \S+\?$') as raised:
        read_config(name)
    meant = str(raised.value).rpartition('mean ')[2][:-1]
    assert Path(meant).resolve() == ROOT / 'configs' / 'autoprog' / 'deit-s_in1k.py'


def test_what_is_no_config(tmp_path):
    with pytest.raises(ValueError, match=r"^--config: there is no file '.*mine.py'\.$"):
        read_config(str(tmp_path / 'mine.py'), '--config')
    with pytest.raises(ValueError, match="^config: '.*' is a folder, not a config file"):
        read_config(str(tmp_path))
    picture = tmp_path / 'a.jpg'
    picture.write_bytes(b'\xff\xd8\xff')
    with pytest.raises(ValueError, match="^config: '.*a.jpg' cannot be read: OSError"):
        read_config(str(picture))
    assert 'no_such_module' not in sys.modules
