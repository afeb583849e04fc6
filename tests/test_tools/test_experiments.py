# Copyright (c) the autoprog_mm authors. All rights reserved.
"""tools/experiments: runs of a suite, and the tables made of them."""
import json
import os
import re
import signal
import subprocess
import sys
import time
from math import lgamma, pi
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config

from tests.micro import micro_config
from tests.test_tools import load_tool

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / 'tools' / 'experiments'
SUITES = sorted((ROOT / 'configs' / 'experiments').glob('*.py'))
RESULTS = sorted((ROOT / 'docs' / 'results').glob('*.json'))
PAGE = ROOT / 'docs' / 'results.md'
SUITE = '''
base = './base.py'
seeds = [3, 4]
options = {'train_cfg.max_epochs': 2}
arms = {
    'baseline': dict(),
    'prog': dict(
        hook=dict(num_stages=2, initial_scale=dict(depth=0.5, resolution=0.5),
                  resolution_divisor=8, search=None),
        optim_wrapper=dict(growth=dict(type='IdentityInit'), optimizer_state='reset')),
}
tables = [dict(name='main', arms=['baseline', 'prog'])]
'''


@pytest.fixture(scope='module')
def run():
    return load_tool(TOOLS / 'run.py')


@pytest.fixture(scope='module')
def table():
    return load_tool(TOOLS / 'table.py')


@pytest.fixture
def suite(jpeg_root, tmp_path):
    """A suite of the micro config, with images made in the process that trains."""
    cfg = micro_config(jpeg_root, tmp_path / 'unused')
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
    cfg.pop('work_dir')
    cfg.pop('experiment_name')
    cfg.custom_imports = dict(imports=['autoprog_mm'], allow_failed_imports=False)
    cfg.custom_hooks = [hook for hook in cfg.custom_hooks
                        if hook['type'] in ('AutoProgHook', 'MoGrowEMAHook')]
    (tmp_path / 'base.py').write_text(cfg.pretty_text)
    path = tmp_path / 'suite.py'
    path.write_text(SUITE)
    return path


def command(suite, *args):
    return [sys.executable, '-W', 'ignore', str(TOOLS / 'run.py'), str(suite), '--work-dir',
            str(suite.parent / 'runs'), *args]


def differing(one, other, place=''):
    """Places at which two configs differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        return [found for key in sorted({*one, *other})
                for found in differing(one.get(key), other.get(key), f'{place}.{key}')]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [found for i, pair in enumerate(zip(one, other))
                for found in differing(*pair, f'{place}.{i}')]
    return [] if one == other else [place]


def test_suite_is_stopped_resumed_and_collected(suite):
    """Also: what was finished stays, and a suite that was changed is refused."""
    runs = suite.parent / 'runs'
    process = subprocess.Popen(
        command(suite, '--seeds', '3', '--jobs', '2'), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True)
    deadline = time.monotonic() + 300
    while not list(runs.glob('*/seed3/epoch_1.pth')) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode != 0

    done = {path: path.stat().st_mtime_ns for path in runs.rglob('result.json')}
    printed = subprocess.run(
        command(suite, '--seeds', '3', '--jobs', '2'), check=True, stdout=subprocess.PIPE,
        text=True).stdout
    assert f'2 runs, {2 - len(done)} of them to do' in printed
    assert all(path.stat().st_mtime_ns == then for path, then in done.items())

    results = json.loads((runs / 'results.json').read_text())
    found = {row['arm']: row for row in results['runs']}
    assert list(found) == ['baseline', 'prog'] and {row['seed'] for row in found.values()} == {3}
    for name, row in found.items():
        record = json.loads((runs / name / 'seed3' / 'autoprog.json').read_text())
        assert record['run']['dataset'].pop('data_root')  # a path of this machine
        assert row['record'] == record and record['finished']
        assert row['train_seconds'] == record['train_seconds'] > 0
        assert record['run']['seed'] == 3 and record['run']['epochs'] == 2
        # The last validation's top-1 is of the final momentum weights: 16 images.
        log = (runs / name / 'seed3' / 'log.txt').read_text()
        assert float(re.findall(r'accuracy/top1: ([\d.]+)', log)[-1]) == row['top1']
        assert row['top1_online'] * 16 % 100 == 0
    assert [stage['subnet'] for stage in found['prog']['record']['stages']] == [
        dict(depth=2, resolution=16), dict(depth=4, resolution=32)]
    assert found['prog']['record']['stages'][1]['operator'] == 'IdentityInit'

    # Matched: what the runs were trained with differs in growth only.
    configs = [Config.fromfile(runs / name / 'seed3' / 'given' / 'config.py').to_dict()
               for name in found]
    assert {re.match(r'\.custom_hooks\.0|\.optim_wrapper\.(growth|optimizer_state)', place).group()
            for place in differing(*configs)} == {
        '.custom_hooks.0', '.optim_wrapper.growth', '.optim_wrapper.optimizer_state'}

    suite.write_text(SUITE.replace('max_epochs\': 2', 'max_epochs\': 3'))
    again = subprocess.run(command(suite), capture_output=True, text=True)
    assert again.returncode != 0 and 'has a run with another config' in again.stderr


@pytest.mark.parametrize('change, message', [
    (("growth=dict(type='IdentityInit')", 'optimizer=dict(lr=1.)'), 'optim_wrapper.optimizer'),
    (("'prog': dict(", "'prog': dict(model=dict(),"), r"sets \['model'\]"),
    (('seeds = [3, 4]', ''), "missing: \\['seeds'\\]"),
    (("options = {", "option = {"), "unknown: \\['option'\\]"),
    (("arms=['baseline', 'prog']", "arms=['baseline', 'progg']"), "\\['progg'\\]"),
    (("'prog': dict(", "'prog': dict(base='other.py',"), 'different configs'),
])
def test_mistakes_in_a_suite(run, suite, change, message):
    assert change[0] in SUITE
    suite.write_text(SUITE.replace(*change))
    with pytest.raises(ValueError, match=message):
        run.read_suite(str(suite))


@pytest.mark.skipif(not hasattr(os, 'sched_getaffinity'), reason='cores are not divided here')
def test_runs_at_once_have_cores_for_themselves(run, monkeypatch):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: {0, 2, 3, 5, 6})
    assert run.shares_of_cores(2) == [[0, 2], [3, 5]]
    assert run.shares_of_cores(1) == [[0, 2, 3, 5, 6]]
    with pytest.raises(ValueError, match='--jobs must be 1 to 5'):
        run.shares_of_cores(6)


@pytest.mark.parametrize('path', SUITES, ids=lambda path: path.stem)
def test_suites_of_the_project(run, path):
    """Each arm has a config that can be read; a name of a table is used once."""
    suite = run.read_suite(str(path))
    names = [entry['name'] for entry in suite['tables']]
    assert len(names) == len(set(names))
    assert len(suite['seeds']) >= 3 and 'baseline' in ''.join(suite['arms'])
    for arm in suite['arms']:
        cfg = run.make_config(str(path.parent), suite, arm, 7, {'data_root': '/images'})
        assert cfg.randomness == dict(seed=7) and cfg.custom_hooks[0].type == 'AutoProgHook'
        assert cfg.param_scheduler[-1].end == cfg.train_cfg.max_epochs


# --------------------------------------------------------------------- tables


def result(arm, seed, top1, seconds, **other):
    stage = dict(subnet=dict(depth=2, resolution=16), search=None,
                 seconds=dict(data=1., train=seconds - 1.5, search=0., growth=0.5, val=9.))
    record = dict(stages=[stage], train_seconds=seconds,
                  run=dict(device='CPU, 1 threads', versions=dict(torch='2.13.0')))
    return dict(arm=arm, seed=seed, top1=top1, top1_online=top1 - 1, train_seconds=seconds,
                cpu_seconds=seconds, date='2026-01-02', jobs=2, record=record,
                machine=dict(cpu='a CPU', cores=2, python='3.11.7', gpu=None), **other)


@pytest.fixture
def results(table, tmp_path):
    runs = [result('baseline', 1, 90., 100.), result('baseline', 2, 91., 110.),
            result('baseline', 3, 92., 120.), result('prog', 1, 91., 50.),
            result('prog', 2, 91.5, 50.), result('prog', 3, 94., 80.)]
    path = tmp_path / 'results.json'
    path.write_text(json.dumps(dict(
        schema=1, suite='s', arms=dict(baseline={}, prog={}, other={}), runs=runs, tables=[
            dict(name='main', arms=['baseline', 'prog', 'other']),
            dict(name='ema', kind='weights', arms=['prog']),
            dict(name='ledger', kind='ledger', arms=['prog'])])))
    return path


def test_paired_differences_by_hand(table):
    """Differences 1, 0.5, 2: mean 7/6, s = sqrt(7/12), t(2) = 4.303."""
    found = table.paired({1: 91., 2: 91.5, 3: 94., 9: 0.}, {1: 90., 2: 91., 3: 92.})
    assert found.mean == pytest.approx(7 / 6)
    assert found.half == pytest.approx(4.303 * (7 / 12)**0.5 / 3**0.5)
    assert found.pairs == 3 and str(found) == '+1.17 [-0.73, +3.06]'
    assert str(table.paired({1: 2.}, {1: 1.})) == '+1.00 (one pair)'
    assert table.paired({1: 2.}, {2: 1.}) is None


def test_t_quantiles(table):
    """By integrating Student's density, in place of looking them up."""
    for freedom, quantile in enumerate(table.T_975, 1):
        x = np.linspace(0, quantile, 200001)
        log_scale = lgamma((freedom + 1) / 2) - lgamma(freedom / 2) - np.log(freedom * pi) / 2
        density = np.exp(log_scale - (freedom + 1) / 2 * np.log1p(x**2 / freedom))
        assert 0.5 + np.trapezoid(density, x) == pytest.approx(0.975, abs=5e-5)


def test_table_by_hand(table, results):
    lines = table.Results(str(results)).table('main').splitlines()
    assert lines[2] == '| baseline | 3 | 91.00 ± 1.00 |  | 110.0 ± 10.0 |  |  |'
    # (100 + 110 + 120) / (50 + 50 + 80) = 1.83; 100/50, 110/50 and 120/80 by seed.
    assert lines[3] == ('| prog | 3 | 92.17 ± 1.61 | +1.17 [-0.73, +3.06] | 60.0 ± 17.3 | 1.83 | '
                        '1.50 to 2.20 |')
    assert lines[-1] == 'Not run: other.'


def test_other_tables(table, results):
    results = table.Results(str(results))
    assert '| prog | 3 | 92.17 ± 1.61 | 91.17 ± 1.61 | +1.00 [+1.00, +1.00] |' in \
        results.table('ema')
    assert '| prog | 1 | 1.0 | 58.5 | 0.0 | 0.5 |' in results.table('ledger')
    assert results.table('runs').count('\n') == 2 + 6
    assert '2026-01-02: a CPU, 2 cores, 2 runs at once' in results.table('machine')
    with pytest.raises(ValueError, match="no table 'mein'"):
        results.table('mein')


def test_page_is_filled_and_the_rest_stays(table, results):
    page = ('# A\n<!-- table: s main -->\nold\n<!-- end -->\ntext\n'
            '<!-- table: t main -->\nother\n<!-- end -->\n')
    filled = table.fill(page, {'s': table.Results(str(results))})
    assert 'old' not in filled and '| prog | 3 |' in filled
    assert filled.startswith('# A\n') and filled.endswith(
        '\ntext\n<!-- table: t main -->\nother\n<!-- end -->\n')
    assert table.fill(filled, {'s': table.Results(str(results))}) == filled


def test_page_has_the_tables_of_the_committed_results(table):
    """No figure on the page was typed, and all that was run is there."""
    suites = {found.suite: found for found in map(table.Results, map(str, RESULTS))}
    text = PAGE.read_text(encoding='utf-8')
    assert table.fill(text, suites) == text
    places = {(suite, name) for _, suite, name, _, _ in table.PLACE.findall(text)}
    assert places == {(found.suite, name) for found in suites.values()
                      for name in ('machine', 'runs', *found.tables)}


@pytest.mark.parametrize('path', RESULTS, ids=lambda path: path.stem)
def test_committed_results_are_of_matched_runs(path):
    """Same data, epochs, batch and steps in all runs of a base; a seed once an arm."""
    data = json.loads(path.read_text())
    by_base = {}
    for row in data['runs']:
        told = row['record']['run']
        assert told['seed'] == row['seed'] and row['record']['finished']
        by_base.setdefault(data['arms'][row['arm']]['base'], set()).add(json.dumps(
            [told[key] for key in ('epochs', 'batch_size', 'steps_per_epoch', 'samples',
                                   'dataset', 'versions', 'device')]))
    assert all(len(kinds) == 1 for kinds in by_base.values())
    pairs = [(row['arm'], row['seed']) for row in data['runs']]
    assert len(pairs) == len(set(pairs))
