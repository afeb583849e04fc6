# Copyright (c) the autoprog_mm authors. All rights reserved.
"""The launchers, with real processes on gloo."""
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.micro import differences, load, read_record
from tests.test_tools.test_train import EXACT, ROOT, call, dump_micro, wait_for

TOOLS = ROOT / 'tools'
WRAPPED = dict(model_wrapper_cfg=dict(type='mmpretrain.ElasticDistributedDataParallel'))
TIMEOUT = 240  # seconds, for what would otherwise hang


def free_port():
    with socket.socket() as own:
        own.bind(('127.0.0.1', 0))
        return str(own.getsockname()[1])


def environment(**variables):
    return {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHON': sys.executable,
            'PYTHONWARNINGS': 'ignore', 'PORT': free_port(), **variables}


def start(script, *args, log, **variables):
    with open(log, 'w') as file:
        return subprocess.Popen(
            [str(TOOLS / script), *map(str, args)], stdout=file, stderr=file,
            env=environment(**variables), start_new_session=True)


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
    """An uninterrupted run of two processes."""
    folder = tmp_path_factory.mktemp('two')
    process = start('dist_train.sh', config, 2, '--work-dir', folder / 'run', log=folder / 'log')
    code, output = finish(process, folder / 'log')
    assert code == 0, output
    assert 'rank 0 of 2' in output and 'gloo' in output
    assert read_record(folder / 'run')['finished']
    return folder / 'run'


def assert_equal_ends(expected, got):
    expected, got = (load(folder / 'epoch_8.pth') for folder in (expected, got))
    for key in EXACT:
        assert differences(expected[key], got[key], key) == []


def test_dist_test(whole, config, tmp_path):
    process = start(
        'dist_test.sh', config, whole / 'epoch_8.pth', 2, '--work-dir', tmp_path, '--out',
        tmp_path / 'metrics.json', '--out-item', 'metrics', log=tmp_path / 'log')
    code, output = finish(process, tmp_path / 'log')
    assert code == 0, output
    one = call('test.py', config, whole / 'epoch_8.pth', '--work-dir', tmp_path / 'one')
    result = re.findall(r'accuracy/top1: ([\d.]+)', output)[-1]
    assert result == re.findall(r'accuracy/top1: ([\d.]+)', one[1])[-1]


def test_two_nodes_on_loopback(whole, config, tmp_path):
    """Two launchers of one process each do what one launcher of two does."""
    port = free_port()
    nodes = [
        start('dist_train.sh', config, 1, '--work-dir', tmp_path / 'run', log=tmp_path / f'{rank}',
              NNODES='2', NODE_RANK=str(rank), PORT=port) for rank in (0, 1)
    ]
    for rank, node in enumerate(nodes):
        code, output = finish(node, tmp_path / f'{rank}')
        assert code == 0, output
    assert_equal_ends(whole, tmp_path / 'run')


@pytest.mark.parametrize('number', [signal.SIGTERM])
def test_signal_to_the_launcher(whole, config, tmp_path, number):
    """Both ranks stop at the same step, and what rank 0 saves is resumed exactly."""
    run = tmp_path / 'run'
    process = start('dist_train.sh', config, 2, '--work-dir', run, log=tmp_path / 'log')
    wait_for((run / 'epoch_2.pth').exists, process)
    process.send_signal(number)
    code, output = finish(process, tmp_path / 'log')
    assert code != 0
    stopped = re.findall(r'Stopped by (\w+) in (.*?)\. Saved', output)
    assert stopped and stopped[0][0] == number.name, output
    assert 'Traceback' not in output.split('Stopped by')[0]
    process = start('dist_train.sh', config, 2, '--work-dir', run, '--resume', log=tmp_path / 'log')
    code, output = finish(process, tmp_path / 'log')
    assert code == 0, output
    assert_equal_ends(whole, run)


def children(pid):
    """Processes that a launcher has started, by rank."""
    ranks = {}
    for path in Path('/proc').glob('[0-9]*'):
        try:
            parent = int(path.joinpath('stat').read_text().rsplit(')', 1)[1].split()[1])
            variables = path.joinpath('environ').read_bytes().split(b'\0')
        except (OSError, IndexError):
            continue
        rank = [v[5:] for v in variables if v.startswith(b'RANK=')]
        if parent == pid and rank:
            ranks[int(rank[0])] = int(path.name)
    return ranks


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGSTOP])
def test_rank_that_dies_or_hangs_takes_the_run_down(config, tmp_path, number):
    run = tmp_path / 'run'
    process = start(
        'dist_train.sh', config, 2, '--work-dir', run, '--cfg-options',
        'env_cfg.dist_cfg.timeout=8', log=tmp_path / 'log', PET_SHUTDOWN_TIMEOUT='3')
    wait_for((run / 'epoch_1.pth').exists, process)
    ranks = children(process.pid)
    assert sorted(ranks) == [0, 1]
    os.kill(ranks[1], number)
    code, output = finish(process, tmp_path / 'log')
    assert code != 0
    message = 'exitcode *: -9' if number == signal.SIGKILL else 'lost touch|[Tt]imed out|timeout'
    assert re.search(message, output), output
    assert not any(Path(f'/proc/{pid}').exists() for pid in ranks.values())
    assert load(run / 'epoch_1.pth')['meta']['epoch'] == 1


def test_signal_to_one_rank_stops_both(whole, config, tmp_path):
    """Slurm, or a person, may tell one process only."""
    run = tmp_path / 'run'
    process = start('dist_train.sh', config, 2, '--work-dir', run, log=tmp_path / 'log')
    wait_for((run / 'epoch_1.pth').exists, process)
    os.kill(children(process.pid)[1], signal.SIGUSR1)
    code, output = finish(process, tmp_path / 'log')
    assert code != 0
    assert 'Rank 1 got SIGUSR1' in output and 'Rank 0 got' not in output.split('Stopped by')[0]
    step = int(re.search(r'Stopped by SIGUSR1 in epoch \d+, after step (\d+)', output)[1])
    assert load(run / f'iter_{step}.pth')['meta']['iter'] == step


FAKE_SRUN = '''#!{python}
# Starts as many processes as Slurm would, on this machine.
import os, subprocess, sys
args = sys.argv[1:]
options = [a for a in args if a.startswith('-')]
number = int(next(a for a in args if a.startswith('--ntasks=')).split('=')[1])
command = args[args.index({python!r}):]
assert '--signal=USR1@120' in args and '--kill-on-bad-exit=1' in args
processes = [subprocess.Popen(command, env=dict(
    os.environ, SLURM_PROCID=str(rank), SLURM_NTASKS=str(number), SLURM_LOCALID=str(rank),
    SLURM_NODELIST='node[1-2]')) for rank in range(number)]
sys.exit(max(process.wait() for process in processes))
'''
FAKE_SCONTROL = '''#!{python}
import sys
assert sys.argv[1:] == ['show', 'hostnames', 'node[1-2]']
print('127.0.0.1', 'elsewhere', sep='\\n')
'''


def test_slurm(whole, config, tmp_path):
    for name, text in (('srun', FAKE_SRUN), ('scontrol', FAKE_SCONTROL)):
        path = tmp_path / name
        path.write_text(text.format(python=sys.executable))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    process = start(
        'slurm_train.sh', 'debug', 'micro', config, tmp_path / 'run', log=tmp_path / 'log',
        PATH=f'{tmp_path}{os.pathsep}{os.environ["PATH"]}', GPUS='0', NTASKS='2',
        MASTER_PORT=free_port())
    code, output = finish(process, tmp_path / 'log')
    assert code == 0, output
    assert 'rank 0 of 2' in output
    assert_equal_ends(whole, tmp_path / 'run')


@pytest.mark.parametrize('script, args', [
    ('dist_train.sh', ['config.py']), ('dist_test.sh', ['config.py', 'checkpoint.pth']),
    ('slurm_train.sh', ['debug', 'name', 'config.py'])])
def test_usage(tmp_path, script, args):
    code, output = finish(start(script, *args, log=tmp_path / 'log'), tmp_path / 'log')
    assert code == 2
    assert output.startswith('usage:') and script in output


def test_slurm_without_srun(config, tmp_path):
    status, output = call('train.py', config, '--work-dir', tmp_path, '--launcher', 'slurm')
    assert status != 0
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


def test_two_ranks_and_one_take_the_same_steps(jpeg_root, tmp_path):
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
        log = tmp_path / f'log_{ranks}'
        process = start('dist_train.sh', path, ranks, '--work-dir', tmp_path / f'run_{ranks}',
                        log=log, PYTHONPATH=str(tmp_path))
        code, output = finish(process, log)
        assert code == 0, output
        results[ranks] = load(tmp_path / f'run_{ranks}' / 'losses.pth')
    one, two = results[1], results[2]
    assert len(one) == len(two) == 8 * 3
    assert max(abs(a - b) for a, b in zip(one, two)) < 1e-8
    assert len(set(one)) == len(one)
    records = [read_record(tmp_path / f'run_{ranks}') for ranks in (1, 2)]
    for first, second in zip(*(record['stages'] for record in records)):
        assert first['subnet'] == second['subnet']
        for a, b in zip(*((stage['search'] or dict(candidates=[]))['candidates']
                          for stage in (first, second))):
            assert a['losses'] == pytest.approx(b['losses'], abs=1e-8)
    assert any(stage['search'] for stage in records[0]['stages'])
