# Copyright (c) the autoprog_mm authors. All rights reserved.
"""The launchers, and what training processes do together, on gloo.

dist_train.sh runs for real, once to the end and once into a signal. What else a
launcher does to start processes is looked at in the command that it runs, and
what the processes do, in forks.
"""
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.micro import differences, load, read_record
from tests.ranks import TIMEOUT, TOOLS, finish_ranks, free_port, run_ranks, start_ranks
from tests.test_tools.test_train import EXACT, call, dump_micro, wait_for

WRAPPED = dict(model_wrapper_cfg=dict(type='mmpretrain.ElasticDistributedDataParallel'))


def start(script, *args, log, **variables):
    """Start a launcher; its output goes into a file."""
    with open(log, 'w') as file:
        return subprocess.Popen(
            [str(TOOLS / script), *map(str, args)], stdout=file, stderr=file,
            env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHON': sys.executable,
                 'PYTHONWARNINGS': 'ignore', 'PORT': free_port(), **variables},
            start_new_session=True)


def finish(process, log):
    try:
        code = process.wait(TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError(f'it hangs:\n{Path(log).read_text()}') from None
    return code, Path(log).read_text()


@pytest.fixture(scope='module')
def config(jpeg_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp('config')
    path = dump_micro(jpeg_root, folder, **WRAPPED, env_cfg__dist_cfg__timeout=60)
    path.write_text(path.read_text() + '''
test_dataloader, test_cfg, test_evaluator = val_dataloader, val_cfg, val_evaluator
''')
    return path


@pytest.fixture(scope='module')
def whole(config, tmp_path_factory):
    """An uninterrupted run of two processes of dist_train.sh."""
    folder = tmp_path_factory.mktemp('two')
    process = start('dist_train.sh', config, 2, '--work-dir', folder / 'run', log=folder / 'log')
    code, output = finish(process, folder / 'log')
    assert code == 0, output
    assert 'rank 0 of 2' in output and 'gloo' in output
    assert read_record(folder / 'run')['finished']
    return folder / 'run'


def assert_equal(expected, got, epoch=4):
    expected, got = (load(folder / f'epoch_{epoch}.pth') for folder in (expected, got))
    for key in EXACT:
        assert differences(expected[key], got[key], key) == []


# --------------------------------------------------------------- the launchers

# In place of python or srun: writes down how it was called.
STUB = """#!/bin/sh
{python} -c 'import json, os, sys
json.dump([sys.argv[1:], dict(os.environ)], open("{out}", "w"))' "$@"
"""


@pytest.fixture
def called(tmp_path):
    """Runs a launcher; the arguments and the environment of what it starts."""

    def called(name, script, *args, **variables):
        stub = tmp_path / name
        stub.write_text(STUB.format(python=sys.executable, out=tmp_path / 'called.json'))
        stub.chmod(0o755)
        process = start(script, *args, log=tmp_path / 'log', **variables)
        code, output = finish(process, tmp_path / 'log')
        assert code == 0, output
        return json.loads((tmp_path / 'called.json').read_text())

    return called


@pytest.mark.parametrize('script, before', [
    ('train', ['config.py']), ('test', ['config.py', 'a.pth'])])
def test_dist(script, before, called, tmp_path):
    """On the second of two nodes; dist_train.sh itself also runs below."""
    args, env = called(
        'python', f'dist_{script}.sh', *before, 8, '--work-dir', 'a b', PYTHON=str(
            tmp_path / 'python'), NNODES='2', NODE_RANK='1', MASTER_ADDR='10.0.0.1', PORT='123')
    assert args == [
        '-m', 'torch.distributed.run', '--nnodes=2', '--node_rank=1', '--master_addr=10.0.0.1',
        '--master_port=123', '--nproc_per_node=8', str(TOOLS / f'{script}.py'), *before,
        '--work-dir', 'a b', '--launcher', 'pytorch']
    assert 'SIGUSR1' in env['PET_SIGNALS_TO_HANDLE'] and env['PET_SHUTDOWN_TIMEOUT'] == '120'


def test_slurm(called, tmp_path):
    args, _ = called(
        'srun', 'slurm_train.sh', 'debug', 'micro', 'config.py', 'run', '--resume', GPUS='0',
        NTASKS='2', PATH=f'{tmp_path}{os.pathsep}{os.environ["PATH"]}')
    assert args == [
        '-p', 'debug', '--job-name=micro', '--ntasks=2', '--cpus-per-task=5',
        '--kill-on-bad-exit=1', '--signal=USR1@120', sys.executable, '-u', str(TOOLS / 'train.py'),
        'config.py', '--work-dir', 'run', '--resume', '--launcher', 'slurm']
    args, _ = called(
        'srun', 'slurm_train.sh', 'debug', 'micro', 'config.py', 'run', GPUS='16',
        PATH=f'{tmp_path}{os.pathsep}{os.environ["PATH"]}')
    assert args[3:6] == ['--gres=gpu:8', '--ntasks=16', '--ntasks-per-node=8']


@pytest.mark.parametrize('script, args', [
    ('dist_train.sh', ['config.py']), ('dist_test.sh', ['config.py', 'checkpoint.pth']),
    ('slurm_train.sh', ['debug', 'name', 'config.py'])])
def test_usage(tmp_path, script, args):
    code, output = finish(start(script, *args, log=tmp_path / 'log'), tmp_path / 'log')
    assert code == 2
    assert output.startswith('usage:') and script in output


def test_signal_to_the_launcher(whole, config, tmp_path):
    """Both ranks stop at the same step, and what rank 0 saves is resumed exactly."""
    run = tmp_path / 'run'
    process = start('dist_train.sh', config, 2, '--work-dir', run, log=tmp_path / 'log')
    wait_for((run / 'epoch_2.pth').exists, process)
    process.send_signal(signal.SIGTERM)
    code, output = finish(process, tmp_path / 'log')
    assert code != 0
    stopped = re.findall(r'Stopped by (\w+) in (.*?)\. Saved', output)
    assert stopped and stopped[0][0] == 'SIGTERM', output
    assert 'Traceback' not in output.split('Stopped by')[0]
    run_ranks('train.py', config, '--work-dir', run, '--resume', folder=tmp_path)
    assert_equal(whole, run)


# --------------------------------------------------------------- the processes


def test_test_of_two_ranks(whole, config, tmp_path):
    args = 'test.py', config, whole / 'epoch_4.pth', '--work-dir'
    results = [
        re.findall(r'accuracy/top1: ([\d.]+)', output)[-1] for output in (
            run_ranks(*args, tmp_path / 'two', folder=tmp_path), call(*args, tmp_path / 'one')[1])]
    assert results[0] == results[1]


FAKE_SCONTROL = '''#!{python}
import sys
assert sys.argv[1:] == ['show', 'hostnames', 'node[1-2]']
print('127.0.0.1', 'elsewhere', sep='\\n')
'''


@pytest.mark.parametrize('launcher', ['two nodes', 'slurm'])
def test_other_launches_take_the_same_steps(launcher, whole, config, tmp_path, monkeypatch):
    """One process on each of two nodes, and two that Slurm has started: their first epoch."""
    options = dict(nodes=2)
    if launcher == 'slurm':
        scontrol = tmp_path / 'scontrol'
        scontrol.write_text(FAKE_SCONTROL.format(python=sys.executable))
        scontrol.chmod(0o755)
        monkeypatch.setenv('PATH', f'{tmp_path}{os.pathsep}{os.environ["PATH"]}')
        options = dict(
            launcher='slurm', names=dict(
                rank='SLURM_PROCID', size='SLURM_NTASKS', local='SLURM_LOCALID'),
            env=dict(SLURM_NODELIST='node[1-2]'))
    ranks = start_ranks('train.py', config, '--work-dir', tmp_path / 'run', folder=tmp_path,
                        **options)
    wait_for((tmp_path / 'run' / 'epoch_1.pth').exists, ranks[0])
    for rank in ranks:
        rank.send_signal(signal.SIGKILL)
    assert 'rank 0 of 2' in finish_ranks(ranks)[0][1]
    assert_equal(whole, tmp_path / 'run', epoch=1)


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGSTOP])
def test_rank_that_dies_or_hangs_takes_the_other_down(config, tmp_path, number):
    run = tmp_path / 'run'
    ranks = start_ranks('train.py', config, '--work-dir', run, '--cfg-options',
                        'env_cfg.dist_cfg.timeout=8', folder=tmp_path)
    wait_for((run / 'epoch_1.pth').exists, ranks[0])
    ranks[1].send_signal(number)
    (code, output), = finish_ranks(ranks[:1])
    ranks[1].send_signal(signal.SIGKILL)
    assert finish_ranks(ranks[1:])[0][0] == -signal.SIGKILL
    assert code not in (0, -signal.SIGKILL), output
    if number == signal.SIGSTOP:
        assert re.search('[Tt]imed out|timeout', output), output
    assert load(run / 'epoch_1.pth')['meta']['epoch'] == 1


def test_signal_to_one_rank_stops_both(config, tmp_path):
    """Slurm, or a person, may tell one process only."""
    run = tmp_path / 'run'
    ranks = start_ranks('train.py', config, '--work-dir', run, folder=tmp_path)
    wait_for((run / 'epoch_1.pth').exists, ranks[0])
    ranks[1].send_signal(signal.SIGUSR1)
    (first, output), (second, other) = finish_ranks(ranks)
    assert first == second == 128 + signal.SIGUSR1
    assert 'Rank 1 got SIGUSR1' in output + other
    assert 'Rank 0 got' not in output.split('Stopped by')[0]
    step = int(re.search(r'Stopped by SIGUSR1 in epoch \d+, after step (\d+)', output)[1])
    assert load(run / f'iter_{step}.pth')['meta']['iter'] == step


def test_slurm_without_srun(config, tmp_path):
    status, output = call('train.py', config, '--work-dir', tmp_path, '--launcher', 'slurm')
    assert status == 2
    assert '--launcher slurm needs SLURM_PROCID' in output.strip().splitlines()[-1]


DOUBLE = '''
import torch
import torch.distributed as dist
from mmengine.dist import all_reduce, get_rank, get_world_size
from mmengine.hooks import Hook
from mmpretrain.registry import HOOKS, MODELS
from autoprog_mm.models import ElasticDataPreprocessor


@MODELS.register_module()
class DoublePreprocessor(ElasticDataPreprocessor):
    def forward(self, data, training=False):
        result = super().forward(data, training)
        return {**result, 'inputs': result['inputs'].double()}


@HOOKS.register_module()
class Double(Hook):
    priority = 'VERY_HIGH'

    def before_run(self, runner):
        runner.model.double()

    def before_train(self, runner):
        self.losses = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        loss = outputs['loss'].detach().double().clone()
        all_reduce(loss)
        self.losses.append(loss.item() / get_world_size())

    def after_train(self, runner):
        if get_rank() == 0:
            torch.save(self.losses, runner.work_dir + '/losses.pth')
'''


def test_two_ranks_and_one_take_the_same_steps(jpeg_root, tmp_path, monkeypatch):
    """In float64 without augmentation: the same losses, decisions and growth."""
    options = dict(
        model__train_cfg=None, model__backbone__drop_path_rate=0.,
        model__data_preprocessor__type='DoublePreprocessor',
        train_dataloader__dataset__pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(40, 40)),
            dict(type='ProgressiveRandomResizedCrop', scale=32, crop_ratio_range=(1., 1.),
                 aspect_ratio_range=(1., 1.)),
            dict(type='PackInputs'),
        ])
    (tmp_path / 'double.py').write_text(DOUBLE)
    monkeypatch.syspath_prepend(tmp_path)
    results = {}
    for ranks in (1, 2):
        folder = tmp_path / f'config_{ranks}'
        folder.mkdir()
        path = dump_micro(jpeg_root, folder, **WRAPPED, **options,
                          train_dataloader__batch_size=16 // ranks)
        path.write_text(path.read_text() + '''
custom_hooks.append(dict(type='Double'))
custom_imports['imports'].append('double')
''')
        run_ranks('train.py', path, '--work-dir', tmp_path / f'run_{ranks}', folder=folder,
                  number=ranks)
        results[ranks] = load(tmp_path / f'run_{ranks}' / 'losses.pth')
    one, two = results[1], results[2]
    assert len(one) == len(two) == 4 * 3
    assert max(abs(a - b) for a, b in zip(one, two)) < 1e-8
    assert len(set(one)) == len(one)
    records = [read_record(tmp_path / f'run_{ranks}') for ranks in (1, 2)]
    for first, second in zip(*(record['stages'] for record in records)):
        assert first['subnet'] == second['subnet']
        for a, b in zip(*((stage['search'] or dict(candidates=[]))['candidates']
                          for stage in (first, second))):
            assert a['losses'] == pytest.approx(b['losses'], abs=1e-8)
    assert any(stage['search'] for stage in records[0]['stages'])
