# Copyright (c) the autoprog_mm authors. All rights reserved.
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import autoprog_mm  # noqa: F401  (before mmpretrain, which imports torchvision)

# isort: split
import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import HOOKS, MODELS, PARAM_SCHEDULERS, TRANSFORMS
from torch._utils import ExceptionWrapper

from autoprog_mm.datasets import ProgressiveRandomResizedCrop
from autoprog_mm.launch import build_runner, exit_on_user_error, user_message
from autoprog_mm.launch.errors import SHOW_TRACEBACK
from autoprog_mm.utils import UserError
from tests.micro import micro_config
from tests.test_tools import run_tool

TOOLS = Path(__file__).parents[2] / 'tools'
POINTER = r' With AUTOPROG_TRACEBACK=1 in the environment its stack trace is shown\.'


@HOOKS.register_module()
class HookWithAnError:

    def __init__(self):
        HOOKS.build(dict(type='PartWithAnError'))


@HOOKS.register_module()
def PartWithAnError():  # noqa: N802
    return dict(a=1)['b']


def fail_in_a_worker():
    """What a DataLoader raises for an error of one of its workers."""
    try:
        raise UserError('a sentence: of a worker.')
    except UserError:
        wrapped = ExceptionWrapper(where='in DataLoader worker process 0')
    wrapped.reraise()


def build(registry, **cfg):
    return lambda: registry.build(cfg)


MISTAKES = {
    'check': (build(HOOKS, type='AutoProgHook', num_stages=0), 'num_stages must be .*0.*'),
    'in a worker': (fail_in_a_worker, r'a sentence: of a worker\.'),
    'option': (
        build(HOOKS, type='AutoProgHook', num_stage=4),
        r"AutoProgHook has no option 'num_stage'\. Did you mean 'num_stages'\?"),
    'option that is passed on': (
        build(MODELS, type='ElasticDeiT', arch='deit-tiny', patch_sice=4),
        r"ElasticDeiT has no option 'patch_sice'\. Did you mean 'patch_size'\?"),
    'unlike any': (
        build(HOOKS, type='AutoProgHook', zzz=4),
        r"AutoProgHook has no option 'zzz'\. It may have budget, .*, stage_shares\."),
    'missing option': (
        build(TRANSFORMS, type='ProgressiveRandomResizedCrop'),
        f"ProgressiveRandomResizedCrop cannot be built: TypeError: .*missing .*'scale'.{POINTER}"),
    'type': (
        build(HOOKS, type='AutoProgHok'),
        r'AutoProgHok is not in the mmpretrain::hook registry\. Did you mean '
        r"'AutoProgHook'\? Check its spelling, and that custom_.*"),
    "type of mmengine's": (
        build(HOOKS, type='EMAHok'), "EMAHok is not .* Did you mean 'EMAHook'[?] .*"),
    'no type': (
        build(HOOKS, num_stages=4), r"A part of the config has no type: {'num_stages': 4}\."),
    'type of another kind': (build(HOOKS, type=3), '3 cannot be built: TypeError: type must .*'),
    "value of mmpretrain's": (
        build(MODELS, type='ElasticDeiT', arch='deit-tinny'),
        f'ElasticDeiT cannot be built: AssertionError: .*deit-tinny.*{POINTER}'),
    'scheduler': (
        build(PARAM_SCHEDULERS, type='LinearLR', optimizer=None, end=0),
        f'LinearLR cannot be built: TypeError: .*{POINTER}'),
    'scheduler by steps': (
        lambda: PARAM_SCHEDULERS.build(
            dict(type='LinearLR', convert_to_iter_based=True, ende=1),
            default_args=dict(optimizer=None, epoch_length=1)),
        r"LinearLR has no option 'ende'\. Did you mean 'end'\?"),
    # The innermost part is named, whatever it raises.
    'part of a part': (
        build(HOOKS, type='HookWithAnError'),
        rf"PartWithAnError cannot be built: KeyError: 'b'\.{POINTER}"),
    'parts that do not fit': (
        lambda: build_runner(Config(dict(model=dict(), train_dataloader=dict()))),
        'config: train_dataloader is set, but not train_cfg and optim_wrapper. Set all .*'),
}
ERRORS = {
    'key of a config': lambda: Config(dict(a=1))['b'],
    'attribute of a config': lambda: Config(dict(a=1)).b,
    'here': lambda: int('a'),
    # A ValueError in our code that is no UserError.
    'unpacking': lambda: setattr(ProgressiveRandomResizedCrop(32), 'scale', (1, 2, 3)),
}


@pytest.mark.parametrize('name', MISTAKES)
def test_mistake(name, capsys, monkeypatch):
    mistake, message = MISTAKES[name]
    monkeypatch.setattr(sys, 'argv', ['tools/the_tool.py'])
    with pytest.raises(SystemExit, match='^2$'), exit_on_user_error():
        mistake()
    assert capsys.readouterr().err.startswith('the_tool.py: error: ')
    with pytest.raises(Exception) as caught:
        mistake()
    text = user_message(caught.value)
    assert re.fullmatch(message, text, re.DOTALL), text

    monkeypatch.setenv(SHOW_TRACEBACK, '1')
    with pytest.raises(type(caught.value)), exit_on_user_error():
        mistake()


@pytest.mark.parametrize('name', ERRORS)
def test_error_in_the_program(name):
    with pytest.raises(Exception) as caught:
        ERRORS[name]()
    assert user_message(caught.value) is None
    with pytest.raises(type(caught.value)), exit_on_user_error():
        ERRORS[name]()


def test_interrupt_is_no_error(capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['tools/the_tool.py'])

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit, match='^130$'), exit_on_user_error():
        interrupt()
    assert capsys.readouterr().err == '\nthe_tool.py: stopped by Ctrl-C.\n'
    monkeypatch.setenv(SHOW_TRACEBACK, '1')
    with pytest.raises(KeyboardInterrupt), exit_on_user_error():
        interrupt()


def test_interrupts_are_heard_after_the_imports():
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        with exit_on_user_error():
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a job in the background
        with exit_on_user_error():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def catches_interrupts(pid: int) -> bool:
    caught = re.search(r'^SigCgt:\s*(\w+)', Path(f'/proc/{pid}/status').read_text(), re.MULTILINE)
    return bool(int(caught[1], 16) & 1 << (signal.SIGINT - 1))


@pytest.mark.skipif(not Path('/proc').is_dir(), reason='looks into /proc')
@pytest.mark.parametrize('tool', ['train.py', 'plan.py'])
def test_interrupt_in_the_first_seconds(tool):
    """While libraries are imported, Ctrl-C ends a tool at once and without a word."""
    process = subprocess.Popen(
        [sys.executable, TOOLS / tool, 'gone.py'], stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    for wanted in (True, False):  # Python's own handler, then none
        while catches_interrupts(process.pid) is not wanted:
            assert process.poll() is None
            time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    assert process.communicate() == (b'', b'')
    assert process.returncode == -signal.SIGINT  # which a shell calls 130


GONE = {
    'train.py': ['gone.py'],
    'test.py': ['gone.py', __file__],
    'plan.py': ['gone.py'],
    'report.py': ['gone'],
    'export.py': ['gone.pth', 'out.pth', '--format', 'timm'],
    'overlay.py': ['gone.py', 'out.py'],
    'prepare_dataset.py': ['gone', 'target'],
    'token_label/generate.py': ['gone', 'out', '--teacher', 'timm:resnet18'],
    'experiments/run.py': ['gone.py'],
    'benchmarks/growth.py': ['--config', 'gone.py'],
    'benchmarks/loader.py': ['--images', 'gone'],
    'benchmarks/overhead.py': ['gone.py'],
    'benchmarks/search.py': ['gone.py'],
    'benchmarks/step.py': ['gone.py'],
}


@pytest.mark.parametrize('tool', GONE)
def test_all_tools_tell_in_a_sentence(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_tool(TOOLS / tool, *GONE[tool]) == 2
    text = capsys.readouterr().err
    assert text.startswith(f'{Path(tool).name}: error: ') and "'gone" in text
    assert len(text.splitlines()) == 1 and not list(tmp_path.iterdir())


@pytest.fixture(scope='module')
def config(jpeg_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp('config')
    cfg = micro_config(jpeg_root, folder / 'run')
    cfg.dump(folder / 'micro.py')
    return folder / 'micro.py'


@pytest.mark.parametrize('option, message', [
    # From AutoProgHook, when training is about to begin.
    ('train_cfg.max_epochs=3', 'num_stages (4) must not exceed max_epochs (3): each stage needs an '
     'epoch. Lower num_stages of AutoProgHook or raise train_cfg.max_epochs.\n'),
    ('custom_hooks.0.num_stage=2',
     "AutoProgHook has no option 'num_stage'. Did you mean 'num_stages'?"),
    ('model.backbone.type=ElasticDiet', 'ElasticDiet is not in the mmpretrain::model registry.'),
    ('custom_hooks.9.priority=1',
     '--cfg-options custom_hooks.9.priority: custom_hooks is a list of 2'),
    ('load_from=gone.pth', "load_from: there is no file 'gone.pth'."),
    ('optim_wrapper=None',
     'config: train_dataloader and train_cfg are set, but not optim_wrapper.'),
    ('data_root', "--cfg-options takes key=value, without spaces around the =, but got 'data_"),
])
def test_train_tells_in_a_sentence(config, option, message, capsys):
    assert run_tool(TOOLS / 'train.py', config, '--cfg-options', option) == 2
    told, = (line for line in capsys.readouterr().err.splitlines(keepends=True)
             if line.startswith('train.py: error: '))
    assert message in told


@pytest.mark.parametrize('args, message', [
    (['gone.pth'], "checkpoint: there is no file 'gone.pth'.\n"),
    (['own.pth', '--out', 'x.json'], '--out: a file of pred must end with .pkl or .pickle, but is'),
    (['own.pth', '--out', 'x.abc', '--out-item', 'metrics'], '--out: a file of metrics must end'),
    (['own.pth', '--out', f'{__file__}/x.pkl'], '--out: nothing can be written into '),
    (['own.pth', '--work-dir', f'{__file__}/x'], '--work-dir: nothing can be written into '),
    (['own.pth', '--show-dir', f'{__file__}/x'], '--show-dir: nothing can be written into '),
])
def test_test_tells_in_a_sentence(config, args, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile(config)
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    cfg.test_cfg = dict()
    cfg.dump(tmp_path / 'mine.py')
    torch.save(dict(state_dict=dict(weight=torch.zeros(1))), 'own.pth')
    assert run_tool(TOOLS / 'test.py', 'mine.py', *args) == 2
    told = capsys.readouterr().err.splitlines(keepends=True)[-1]
    assert told.startswith('test.py: error: ') and message in told


@pytest.mark.parametrize('part', ['CrossEntropyLoss', 3])
def test_a_part_that_is_no_dict(part):
    with pytest.raises(TypeError) as caught:
        MODELS.build(part)
    assert user_message(caught.value) == \
        f'A part of the config must be a dict with a type, but is {part!r}.'
