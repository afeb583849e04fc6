# Copyright (c) the autoprog_mm authors. All rights reserved.
"""The benchmarks and the stress tool run, on networks that take seconds."""
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forked import Forked, run_script
from tests.micro import micro_config, run
from tests.test_tools import load_tool

ROOT = Path(__file__).parents[2]
MICRO = ROOT / 'configs' / 'autoprog' / 'deit-micro_mnist5k.py'


def call(script, *args):
    done = run_script(ROOT / 'tools' / script, *args, timeout=500)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_step(tmp_path):
    output = call('benchmarks/step.py', MICRO, '--rounds', 1, '--batch-size', 2, '--out',
                  tmp_path / 'step.json')
    assert 'The manual schedule is' in output
    result = json.loads((tmp_path / 'step.json').read_text())
    # At scales of 0.5: depths 3 4.5 6, resolutions 16 24 32, of multiples of 8.
    assert [(row['depth'], row['resolution']) for row in result['subnets']] == [
        (3, 16), (5, 24), (6, 32)]
    last = result['subnets'][-1]
    assert last['speed_up'] == last['ideal'] == last['share'] == 1
    ratio = result['subnets'][0]['ideal']
    assert ratio == pytest.approx(last['flops'] / result['subnets'][0]['flops'])
    times = [row['seconds'] for row in result['subnets']]
    assert result['schedule_speed_up'] == pytest.approx(3 * times[2] / sum(times))


def test_promise(tmp_path):
    output = call('benchmarks/promise.py', ROOT / 'configs/prog/deit-micro_prog_mnist5k.py',
                  '--steps', 2, '--rounds', 1, '--speedup', 2, 100, '--out', tmp_path / 'out.json',
                  '--cfg-options', 'train_dataloader.num_workers=0',
                  'train_dataloader.batch_size=4')
    result = json.loads((tmp_path / 'out.json').read_text())
    assert [row['subnet'] for row in result['subnets']] == ['3x16', '5x24', '6x32']
    assert all(len(row['trained']) == len(row['timed']) == 1 for row in result['subnets'])
    assert result['subnets'][-1]['off'] == 0
    assert [each['promised'] for each in result['speedups']] == [2]
    assert 'Promised 2, in seconds it comes to' in output
    assert 'speedup=100: speedup=100 of AutoProgHook leaves too little' in output


def test_growth(tmp_path):
    call('benchmarks/growth.py', '--config', MICRO, '--repeats', 1, '--steps', 1, '--out',
         tmp_path / 'growth.json')
    result = json.loads((tmp_path / 'growth.json').read_text())
    assert [(row['depth'], row['resolution']) for row in result['growths']] == [(5, 24), (6, 32)]
    for row in result['growths']:
        assert row['ratio'] == pytest.approx((row['grow'] + row['rebuild']) / row['step_before'])


def test_search(tmp_path):
    output = call('benchmarks/search.py', MICRO, '--rounds', 1, '--batch-size', 2,
                  '--steps-per-epoch', 10, '--out', tmp_path / 'search.json')
    result = json.loads((tmp_path / 'search.json').read_text())
    assert 0 < result['search'] < result['total']
    assert result['share'] == pytest.approx(result['search'] / result['total'])
    assert output.count('training') == 3 and 'own work takes' in output


def test_overhead(tmp_path):
    config = tmp_path / 'small.py'
    config.write_text(f'''
_base_ = {str(ROOT / 'configs' / 'baseline' / 'deit-s_baseline_in1k.py')!r}
model = dict(
    backbone=dict(arch=dict(
        _delete_=True,
        embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)),
    head=dict(in_channels=16))
''')
    output = call('benchmarks/overhead.py', config, '--batch-size', 2, '--steps', 2, '--rounds', 2,
                  '--out', tmp_path / 'overhead.json')
    result = json.loads((tmp_path / 'overhead.json').read_text())
    parts = [result['seconds'][name] for name in ('hooks', 'momentum', 'check of gradients')]
    assert all(part > 0 for part in parts)
    assert result['share'] == pytest.approx(sum(parts) / result['seconds']['step'])
    assert result['in_turns']['copies'] == 2 and 'EMAHook' in output


def test_kill_and_resume(tmp_path, monkeypatch):
    """A part of what the stress tool does at length, with runs that are forks."""

    config = tmp_path / 'small.py'
    config.write_text(f'''
_base_ = {str(MICRO)!r}
model = dict(
    backbone=dict(arch=dict(embed_dims=16, num_heads=2, feedforward_channels=16)),
    head=dict(in_channels=16))
train_dataloader = dict(num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
''')
    fresh = subprocess.Popen

    def start(command, **options):
        if command[0] != sys.executable:
            return fresh(command, **options)
        assert command[1:3] == ['-W', 'ignore'] and options['start_new_session']
        return Forked(command[3:], env=options['env'], output=options['stdout'].name,
                      new_session=True)

    monkeypatch.setattr(subprocess, 'Popen', start)
    output = call('stress/kill_resume.py', '--trials', 1, '--two-rank-trials', 0, '--config',
                  config, '--work-dir', tmp_path / 'stress')
    assert '1 passed, 0 failed' in output
    trials = json.loads((tmp_path / 'stress' / 'kill_resume.json').read_text())['trials']
    assert [trial['kind'] for trial in trials] == ['any']
    assert all(trial['passed'] and trial['kills'] for trial in trials)


def test_stages_of_a_log(jpeg_root, tmp_path):
    """The stress test reads growths and searches from real lines."""
    stages = load_tool(ROOT / 'tools' / 'stress' / 'stages.py')
    search = dict(type='OneShotSearch', epochs=1, eval_batches=1, evals=(1, 1), cost='flops')
    run(micro_config(jpeg_root, tmp_path, search, custom_hooks__0__num_stages=3,
                     train_cfg__max_epochs=3, train_dataloader__dataset__indices=16))
    log, = tmp_path.glob('*/*.log')
    growing, searching = stages.read_stages(log.read_text().splitlines())
    assert searching[0] == 1 and growing[0] == 2
