# Copyright (c) the autoprog_mm authors. All rights reserved.
import runpy
from pathlib import Path

import autoprog_mm  # noqa: F401  (before mmpretrain, which imports torchvision)

# isort: split
import pytest
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS, MODELS, TRANSFORMS

from autoprog_mm.engine.checkpoint import load_plain
from autoprog_mm.launch.errors import SHOW_TRACEBACK, exit_on_user_error, is_mistake
from autoprog_mm.launch.prepare import read_config

ROOT = Path(__file__).parents[2]


@HOOKS.register_module()
class HookWithAnError:

    def __init__(self, kind):
        getattr(self, kind)()

    def argument(self):
        self.argument(size=3)

    def value(self):
        raise ValueError('of a computation')

    def key(self):
        dict(a=1)['b']


def build(registry, **cfg):
    return lambda: registry.build(cfg)


MISTAKES = {
    'our check': lambda: load_plain('gone.pth'),
    'option': build(HOOKS, type='AutoProgHook', num_stage=4),
    'option that is passed on': build(MODELS, type='ElasticDeiT', arch='deit-tiny', patches=4),
    'missing option': build(TRANSFORMS, type='ProgressiveRandomResizedCrop'),
    'type': build(HOOKS, type='AutoProgHok'),
    'no type': build(HOOKS, num_stages=4),
    'value': build(HOOKS, type='AutoProgHook', num_stages=0),
    "value of mmpretrain's": build(MODELS, type='ElasticDeiT', arch='deit-tinny'),
    'config': lambda: read_config('configs/gone.py'),
    'bases': lambda: Config.fromstring(
        f"_base_ = {[str(ROOT / 'configs' / 'prog' / 'deit-s_prog_in1k.py')] * 2}", '.py'),
    'index': lambda: Config(dict(hooks=[1])).merge_from_dict({'hooks.3': 2}),
    'part of a run': lambda: Runner(dict(), '.', train_dataloader=dict()),
}
ERRORS = {
    'argument': build(HOOKS, type='HookWithAnError', kind='argument'),
    'value': build(HOOKS, type='HookWithAnError', kind='value'),
    'key': build(HOOKS, type='HookWithAnError', kind='key'),
    'key of a config': lambda: Config(dict(a=1))['b'],
    'attribute of a config': lambda: Config(dict(a=1)).b,
    # A ValueError in our code, which no raise statement has raised.
    'unpacking': build(TRANSFORMS, type='ProgressiveRandomResizedCrop', scale=(1, 2, 3)),
    'here': lambda: int('a'),
}


@pytest.mark.parametrize('name', MISTAKES)
def test_mistake(name):
    with pytest.raises(Exception) as caught:
        MISTAKES[name]()
    assert is_mistake(caught.value), repr(caught.value)


@pytest.mark.parametrize('name', ERRORS)
def test_error_in_the_program(name):
    with pytest.raises(Exception) as caught:
        ERRORS[name]()
    assert not is_mistake(caught.value), repr(caught.value)
    with pytest.raises(type(caught.value)):
        with exit_on_user_error():
            ERRORS[name]()


def run_tool(name, *args, monkeypatch):
    monkeypatch.setattr('sys.argv', [name, *map(str, args)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / 'tools' / name), run_name='__main__')
    return ended.value.code


def test_tools_tell_in_a_sentence(jpeg_root, tmp_path, monkeypatch, capsys):
    config = ROOT / 'configs' / 'prog' / 'deit-t_prog_custom.py'
    for options, message in (
            ([], 'UserError: data_root is not set. Say where your images are with --cfg-options '
             'data_root=/path/to/folder, a folder of one folder a class.\n'),
            # From AutoProgHook, when training is about to begin.
            ([f'data_root={jpeg_root}', 'train_cfg.max_epochs=3', 'train_dataloader.num_workers=0'],
             'UserError: num_stages (4) must not exceed max_epochs (3): each stage needs an '
             'epoch. Lower num_stages of AutoProgHook or raise train_cfg.max_epochs.\n'),
            ([f'data_root={jpeg_root}', 'custom_hooks.0.num_stage=2'],
             'TypeError: AutoProgHook.__init__() got an unexpected keyword argument '
             "'num_stage'\n"),
            ([f'data_root={jpeg_root}', 'model.backbone.type=ElasticDiet'],
             'KeyError: ElasticDiet is not in the mmpretrain::model registry. ')):
        args = ['--work-dir', tmp_path] + (['--cfg-options', *options] if options else [])
        assert run_tool('train.py', config, *args, monkeypatch=monkeypatch) == 2
        assert message in capsys.readouterr().err
    assert run_tool('train.py', 'gone.py', monkeypatch=monkeypatch) == 2
    assert capsys.readouterr().err == "ValueError: config: there is no file 'gone.py'.\n"
    assert run_tool('test.py', config, 'gone.pth', monkeypatch=monkeypatch) == 2
    assert capsys.readouterr().err == "ValueError: checkpoint: there is no file 'gone.pth'.\n"
    args = config, '--cfg-options', 'data_root'
    assert run_tool('train.py', *args, monkeypatch=monkeypatch) == 2
    assert "--cfg-options takes key=value, but got 'data_root'." in capsys.readouterr().err

    monkeypatch.setenv(SHOW_TRACEBACK, '1')
    monkeypatch.setattr('sys.argv', ['train.py', str(config)])
    with pytest.raises(ValueError, match='data_root is not set'):
        runpy.run_path(str(ROOT / 'tools' / 'train.py'), run_name='__main__')
