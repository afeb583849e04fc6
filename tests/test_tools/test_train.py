# Copyright (c) the autoprog_mm authors. All rights reserved.
"""tools/train.py and tools/test.py as a user runs them, in processes of their own."""
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS

from tests.forked import Forked, run_script
from tests.micro import (
    differences,
    load,
    micro_config,
    read_record,
    volo_options,
    write_label_maps,
)
from tests.ranks import run_ranks
from tests.test_tools import run_tool

ROOT = Path(__file__).parents[2]
SEARCH = dict(type='OneShotSearch', epochs=1, eval_batches=2, evals=(2, 1), cost='flops')
EXACT = ('state_dict', 'online_state_dict', 'optimizer', 'param_schedulers')


def call(tool, *args, cwd=None):
    """Run a tool to its end: exit status and output."""
    done = run_script(ROOT / 'tools' / tool, *args, cwd=cwd)
    return done.returncode, done.stdout


def dump_micro(jpeg_root, folder, epochs=4, **options):
    """A micro config as a file; its work directory is given when it is run."""
    options = dict(train_cfg__max_epochs=epochs, param_scheduler__1__end=epochs, **options)
    cfg = micro_config(jpeg_root, folder, SEARCH, **options)
    cfg.pop('work_dir')
    cfg.pop('experiment_name')
    cfg.custom_imports = dict(imports=['autoprog_mm'])
    path = folder / 'micro.py'
    cfg.dump(path)
    return path


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None, 'the run ended before it was interrupted'
        time.sleep(0.01)


def test_imagenet_config_from_search_to_stock_model(jpeg_root, tmp_path):
    """`deit-s_in1k.py` really trains, and gives a checkpoint for the stock model."""
    small = [
        f'train_dataloader.dataset.data_root={jpeg_root}',
        f'val_dataloader.dataset.data_root={jpeg_root}',
        f'test_dataloader.dataset.data_root={jpeg_root}', 'train_dataloader.batch_size=2',
        'train_dataloader.num_workers=0', 'val_dataloader.num_workers=0',
        'val_dataloader.batch_size=8', 'train_dataloader.dataset.indices=2',
        'val_dataloader.dataset.indices=8', 'test_dataloader.dataset.indices=8',
        'train_cfg.max_epochs=2', 'param_scheduler.0.end=1', 'param_scheduler.1.begin=1',
        'param_scheduler.1.end=2', 'custom_hooks.0.search.epochs=1', 'custom_hooks.0.num_stages=2',
        'custom_hooks.0.search.eval_batches=1', 'custom_hooks.0.search.evals=1,1',
        'custom_hooks.0.search.cost=flops', 'train_cfg.val_interval=2',
        'default_hooks.checkpoint.interval=2', 'default_hooks.checkpoint.save_best=None'
    ]
    config = ROOT / 'configs' / 'autoprog' / 'deit-s_in1k.py'
    status, output = call('train.py', config, '--work-dir', tmp_path, '--cfg-options', *small)
    assert status == 0, output
    assert 'training in float32' in output or torch.cuda.is_available()
    assert 'Search of stage 1' in output
    record = read_record(tmp_path)
    assert record['finished'] and record['full'] == dict(depth=12, resolution=224)
    first = record['stages'][0]['search']['candidates']
    assert {(c['depth'], c['resolution']) for c in first} == {
        (d, r) for d in (6, 12) for r in (128, 224)}
    assert record['stages'][-1]['subnet'] == dict(depth=12, resolution=224)

    # The final checkpoint is that of a stock DeiT-S.
    stock_cfg = Config.fromfile(
        Path(sys.modules['mmpretrain'].__file__).parent / '.mim' / 'configs' / 'deit' /
        'deit-small_4xb256_in1k.py')
    weights = load(tmp_path / 'epoch_2.pth')['state_dict']
    stock = MODELS.build(stock_cfg.model)
    stock.load_state_dict(weights, strict=True)
    ours = MODELS.build(Config.fromfile(config).model)
    ours.load_state_dict(weights, strict=True)
    images = torch.randn(2, 3, 224, 224)
    for model in (stock, ours):
        model.eval()
    with torch.no_grad():
        # Convolutions with the channels last add in another order on some machines.
        torch.testing.assert_close(stock(images), ours(images), rtol=1e-5, atol=1e-6)

    status, output = call('test.py', config, tmp_path / 'epoch_2.pth', '--work-dir',
                          tmp_path / 'test', '--out', tmp_path / 'metrics.json', '--out-item',
                          'metrics', '--cfg-options', *small[2:3], *small[5:7], small[9])
    assert status == 0, output
    # Testing gives what the last validation gave.
    scalars = max(tmp_path.glob('*/vis_data/scalars.json')).read_text().splitlines()
    last = [json.loads(row) for row in scalars if 'accuracy/top1' in row][-1]
    metrics = json.loads((tmp_path / 'metrics.json').read_text())
    assert metrics['accuracy/top1'] == pytest.approx(last['accuracy/top1'])
    assert metrics['accuracy/top5'] == pytest.approx(last['accuracy/top5'])


def test_interrupted_and_killed_runs_resume_exactly(jpeg_root, tmp_path):
    config = dump_micro(jpeg_root, tmp_path, workers=1)
    status, output = call('train.py', config, '--work-dir', tmp_path / 'whole')
    assert status == 0, output

    broken = tmp_path / 'broken'
    for epoch, how, code in ((1, signal.SIGINT, 130), (2, signal.SIGKILL, -9)):
        process = Forked([ROOT / 'tools/train.py', config, '--work-dir', broken, '--resume'],
                         output=tmp_path / f'log{epoch}', new_session=True)
        wait_for((broken / f'epoch_{epoch}.pth').exists, process)
        # To all of its processes, workers too, as a terminal or a scheduler sends it.
        os.killpg(process.pid, how)
        assert process.wait() == code, process.output
        assert 'Traceback' not in process.output
    status, output = call('train.py', config, '--work-dir', broken, '--resume')
    assert status == 0, output
    assert 'resumed epoch' in output
    # Who tests or trains with this one again resumes nothing.
    assert Config.fromfile(broken / 'micro.py').get('resume', False) is False

    expected, got = (load(tmp_path / name / 'epoch_4.pth') for name in ('whole', 'broken'))
    for key in EXACT:
        assert differences(expected[key], got[key], key) == []


def test_two_processes_stay_equal(jpeg_root, tmp_path, monkeypatch):
    """Two ranks on gloo search, grow and end with one record and one model.

    With VOLO, which has buffers and dense losses, too; for DeiT test_launchers.py
    has two ranks that take the steps of one.
    """
    options = volo_options(write_label_maps(jpeg_root, tmp_path / 'labels', 4))
    config = dump_micro(
        jpeg_root,
        tmp_path,
        model_wrapper_cfg=dict(type='mmpretrain.ElasticDistributedDataParallel'),
        epochs=6, custom_hooks__0__speedup=1., custom_hooks__0__stage_shares=[4, 1],
        custom_hooks__0__budget='flops', custom_hooks__0__num_stages=2,
        **options)
    text = config.read_text() + '''
custom_hooks.append(dict(type='SyncBuffersHook'))  # for the BatchNorm of VOLO
custom_hooks.append(dict(type='DumpRank'))
custom_imports['imports'].append('rank_dump')
'''
    config.write_text(text)
    (tmp_path / 'rank_dump.py').write_text('''
import os
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmpretrain.registry import HOOKS

@HOOKS.register_module()
class DumpRank(Hook):
    priority = 'LOWEST'

    def after_train_epoch(self, runner):
        wrapper = runner.optim_wrapper
        torch.save(dict(
            weights=[p.detach() for p in runner.model.parameters()],
            buffers=list(runner.model.buffers()),
            momentum=[list(wrapper.momentum_weights(i).values()) for i in range(2)],
            awake=runner.model.module.backbone.awake_slots,
            gradients=[p.grad is not None for p in runner.model.parameters()]),
            os.path.join(runner.work_dir, f'rank{get_rank()}_epoch{runner.epoch + 1}.pth'))
''')
    monkeypatch.syspath_prepend(tmp_path)
    run_ranks('train.py', config, '--work-dir', tmp_path / 'run', folder=tmp_path)
    record = read_record(tmp_path / 'run')
    assert record['finished'] and record['stages'][0]['search']
    for epoch in range(1, record['budget']['epochs'] + 1):
        first, second = (load(tmp_path / 'run' / f'rank{rank}_epoch{epoch}.pth')
                         for rank in (0, 1))
        assert differences(first, second) == []


@pytest.mark.parametrize('kind, message', [
    ('missing', "--resume: there is no file '.*in.pth'"),
    ('damaged', "--resume: '.*in.pth' is no whole checkpoint"),
    ('weights', "--resume: '.*in.pth' has no meta .*it holds weights, as best checkpoints do"),
])
def test_what_cannot_be_resumed_is_refused_at_once(tmp_path, kind, message, capsys):
    if kind == 'damaged':
        (tmp_path / 'in.pth').write_bytes(b'half a file')
    elif kind == 'weights':
        torch.save(dict(state_dict=dict(a=torch.ones(1))), tmp_path / 'in.pth')
    assert run_tool(
        ROOT / 'tools' / 'train.py', ROOT / 'configs' / 'prog' / 'deit-s_prog_in1k.py',
        '--work-dir', tmp_path / 'run', '--resume', tmp_path / 'in.pth') == 2
    printed = capsys.readouterr()
    assert re.fullmatch(f'train.py: error: {message}.*\n', printed.err) and printed.out == ''
    assert not (tmp_path / 'run').exists()


BAD_DATA = {
    'no root': ('gone', r'train_dataloader.dataset.data_root', 'there is no folder'),
    'no split': ('empty', r'train_dataloader.dataset', "there is no folder"),
    'no images': ('hollow', r'train_dataloader.dataset', 'has no images'),
}


@pytest.mark.parametrize('name', BAD_DATA)
def test_missing_data_gets_a_clear_error(tmp_path, name, capsys):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'hollow' / 'train' / 'a').mkdir(parents=True)
    folder, key, message = BAD_DATA[name]
    assert run_tool(
        ROOT / 'tools' / 'train.py', ROOT / 'configs' / 'prog' / 'deit-s_prog_in1k.py',
        '--work-dir', tmp_path / 'run', '--cfg-options',
        f'train_dataloader.dataset.data_root={tmp_path / folder}') == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith('train.py: error: ') and key in last and message in last
    assert '--cfg-options' in last
