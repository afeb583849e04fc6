# Copyright (c) the autoprog_mm authors. All rights reserved.
"""tools/experiments: runs of a suite, and the tables made of them."""
import argparse
import fcntl
import json
import os
import re
import signal
import time
from math import lgamma, pi
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from autoprog_mm import Subnet
from autoprog_mm.apis.plan import make_plan
from autoprog_mm.launch import prepare_config
from tests.forked import Forked, run_script
from tests.micro import differing, micro_config

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / 'tools' / 'experiments'
SUITES = sorted((ROOT / 'configs' / 'experiments').glob('*.py'))
RESULTS = sorted((ROOT / 'docs' / 'results').glob('*.json'))
PAGE = ROOT / 'docs' / 'results.md'

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(TOOLS)
    import paired
    import processes
    import table
    import train_run
    from results import check_old_results, read_results
    from suite import fingerprint, make_config, read_suite

# What the last arm with a search begins with, by hand, at a scale of 0.4.
SMALLEST = dict(mnist5k=Subnet(3, 16), cifar10=Subnet(5, 12), cifar10_cpu=Subnet(5, 12))
SUITE = '''
base = './base.py'
seeds = [3, 4]
options = {'train_cfg.max_epochs': 4}
arms = {
    'baseline': dict(),
    'prog': dict(
        hook=dict(num_stages=2, initial_scale=dict(depth=0.5, resolution=0.5),
                  resolution_divisor=8, search=None),
        optim_wrapper=dict(growth=dict(type='IdentityInit'), optimizer_state='reset')),
}
tables = [dict(name='main', arms=['baseline', 'prog'])]
'''


@pytest.fixture
def suite(jpeg_root, tmp_path):
    """A suite of the micro config."""
    cfg = micro_config(jpeg_root, tmp_path / 'unused')
    cfg.pop('work_dir')
    cfg.pop('experiment_name')
    cfg.custom_imports = dict(imports=['autoprog_mm'], allow_failed_imports=False)
    cfg.custom_hooks = [dict(type='AutoProgHook', num_stages=1), dict(type='MoGrowEMAHook')]
    (tmp_path / 'base.py').write_text(cfg.pretty_text)
    path = tmp_path / 'suite.py'
    path.write_text(SUITE)
    return path


def command(suite, *args):
    return [str(TOOLS / 'run.py'), str(suite), '--work-dir', str(suite.parent / 'runs'),
            '--seeds', '3', '--jobs', '2', *args]


@pytest.fixture
def forked_runs(monkeypatch):
    """Runs are forks of the process that starts them, in place of fresh interpreters."""

    class Run(Forked):
        returncode = property(Forked.poll)

    monkeypatch.setattr(processes, 'start', lambda folder, cores: Run(
        [processes.SCRIPT, folder], output=Path(folder, processes.LOG)))


@pytest.fixture
def stopped(suite):
    """A suite of which a run, a real process, was stopped by a signal."""
    run = suite.parent / 'runs' / 'prog' / 'seed3'
    process = Forked(command(suite, '--arms', 'prog'))
    deadline = time.monotonic() + 240
    while not (run / 'log.txt').exists() or 'Epoch(train)' not in (run / 'log.txt').read_text():
        assert time.monotonic() < deadline and process.poll() is None, process.output
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 130 and 'The same command goes on' in process.output, process.output
    assert not (run / 'result.json').exists() and 'Stopped by SIGTERM' in (
        run / 'log.txt').read_text()
    return suite


def test_suite_is_stopped_resumed_and_collected(stopped, forked_runs):
    """Also: what was finished stays, and a suite that was changed is refused."""
    suite, runs = stopped, stopped.parent / 'runs'
    done = run_script(*command(suite))
    assert done.returncode == 0 and '2 runs, 2 of them to do, 2 at once' in done.stdout, done.stdout
    assert 'resumed epoch' in (runs / 'prog' / 'seed3' / 'log.txt').read_text()
    written = {path: path.stat().st_mtime_ns for path in runs.rglob('result.json')}
    again = run_script(*command(suite))
    assert again.returncode == 0 and '2 runs, 0 of them to do' in again.stdout
    assert {path: path.stat().st_mtime_ns for path in written} == written and len(written) == 2

    results = json.loads((runs / 'results.json').read_text())
    found = {row['arm']: row for row in results['runs']}
    assert list(found) == ['baseline', 'prog'] and {row['seed'] for row in found.values()} == {3}
    for name, row in found.items():
        record = json.loads((runs / name / 'seed3' / 'autoprog.json').read_text())
        assert record['run']['dataset'].pop('data_root')  # a path of this machine
        assert row['record'] == record and record['finished']
        assert row['train_seconds'] == record['train_seconds'] > 0
        assert record['run']['seed'] == 3 and record['run']['epochs'] == 4
        # The last validation's top-1 is of the final momentum weights: 16 images.
        log = (runs / name / 'seed3' / 'log.txt').read_text()
        assert float(re.findall(r'accuracy/top1: ([\d.]+)', log)[-1]) == row['top1']
        assert row['top1_online'] * 16 % 100 == 0
        assert (row['jobs'], row['cores']) == (2, len(os.sched_getaffinity(0)) // 2)
    assert [stage['subnet'] for stage in found['prog']['record']['stages']] == [
        dict(depth=2, resolution=16), dict(depth=4, resolution=32)]
    assert found['prog']['record']['stages'][1]['operator'] == 'IdentityInit'

    # Matched: what the runs were trained with differs in growth only.
    configs = [Config.fromfile(runs / name / 'seed3' / 'given' / 'config.py').to_dict()
               for name in found]
    assert {re.match(r'custom_hooks\.0|optim_wrapper\.(growth|optimizer_state)', place).group()
            for place in differing(*configs)} == {
        'custom_hooks.0', 'optim_wrapper.growth', 'optim_wrapper.optimizer_state'}

    suite.write_text(SUITE.replace('max_epochs\': 4', 'max_epochs\': 3'))
    for args, message in (([], '--out: .*has a result of baseline, seed 3, with'),
                          (['--out', str(runs / 'other.json')],
                           '--work-dir: .*has a result of another config')):
        again = run_script(*command(suite, *args))
        assert again.returncode == 2 and re.search(message, again.stdout), again.stdout


def test_run_that_fails(suite, monkeypatch, tmp_path):
    """Its process had its own cores; it is told, and has no row."""
    script = tmp_path / 'script.py'
    script.write_text('import os, sys\n'
                      'print(os.sched_getaffinity(0), os.environ["OMP_NUM_THREADS"])\n'
                      'sys.exit(1)\n')
    monkeypatch.setattr(processes, 'SCRIPT', str(script))
    done = run_script(*command(suite))
    assert done.returncode == 1
    for arm, cores in zip(('baseline', 'prog'), processes.shares_of_cores(2)):
        log = tmp_path / 'runs' / arm / 'seed3' / 'log.txt'
        assert f'{arm}, seed 3: FAILED, see {log}' in done.stdout
        assert log.read_text() == f'{set(cores)} {len(cores)}\n'
    assert json.loads((tmp_path / 'runs' / 'results.json').read_text())['runs'] == []


@pytest.mark.parametrize('change, message', [
    (("growth=dict(type='IdentityInit')", 'optimizer=dict(lr=1.)'), 'optim_wrapper.optimizer'),
    (('num_stages=2', 'num_stages=2, max_batch_per_step=8'), r"\['hook.max_batch_per_step'\]"),
    (("'train_cfg.max_epochs'", "'custom_hooks.0.num_stages'"), 'options must not set custom_hook'),
    (("name='main'", "name='main', kind='choises'"), "'choises'"),
    (("'prog': dict(", "'prog': dict(model=dict(),"), r"sets \['model'\]"),
    (('seeds = [3, 4]', ''), "missing: \\['seeds'\\]"),
    (("options = {", "option = {"), "unknown: \\['option'\\]"),
    (("arms=['baseline', 'prog']", "arms=['baseline', 'progg']"), "\\['progg'\\]"),
    (("'prog': dict(", "'prog': dict(base='other.py',"), 'different configs'),
])
def test_mistakes_in_a_suite(suite, change, message):
    assert change[0] in SUITE
    suite.write_text(SUITE.replace(*change))
    with pytest.raises(ValueError, match=message):
        read_suite(str(suite))


def test_no_results(tmp_path):
    for path in (tmp_path / 'gone.json', tmp_path, Path(__file__)):
        with pytest.raises(ValueError, match='cannot be read as a file of results'):
            read_results(str(path))


def test_mistyped_option(suite):
    with pytest.raises(ValueError, match=r"--cfg-options: ./base.py has no \['train_cgf.val'\]"):
        make_config(str(suite.parent), read_suite(str(suite)), 'prog', 3,
                        {'train_cgf.val': 2})


def test_base_that_grows_already(suite):
    base = suite.parent / 'base.py'
    base.write_text(base.read_text().replace("type='AutoProgHook'",
                                             "type='AutoProgHook', max_batch_per_step=8"))
    with pytest.raises(ValueError, match="must be the baseline's"):
        make_config(str(suite.parent), read_suite(str(suite)), 'prog', 3, {})


def test_fingerprint_is_of_all_but_the_place_of_data(suite):
    suite = read_suite(str(suite)), str(suite.parent)

    def made(arm='prog', seed=3, **options):
        return fingerprint(make_config(suite[1], suite[0], arm, seed, options))

    elsewhere = {'train_dataloader.dataset.data_root': '/elsewhere'}
    assert made() == made(**elsewhere)
    others = [made('baseline'), made(seed=4), made(**{'optim_wrapper.optimizer.lr': 1.})]
    assert len({made(), *others}) == 4


def test_run_has_one_writer(tmp_path):
    with open(tmp_path / '.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RuntimeError, match='another process trains this run'):
            train_run.train_run(str(tmp_path))


@pytest.mark.skipif(not hasattr(os, 'sched_getaffinity'), reason='cores are not divided here')
def test_runs_at_once_have_cores_for_themselves(monkeypatch):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: {0, 2, 3, 5, 6})
    assert processes.shares_of_cores(2) == [[0, 2], [3, 5]]
    assert processes.shares_of_cores(1) == [[0, 2, 3, 5, 6]]
    for jobs in (0, -1, 6):
        with pytest.raises(ValueError, match='--jobs must be 1 to 5'):
            processes.shares_of_cores(jobs)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    with pytest.raises(ValueError, match='--jobs must be 1 with a GPU'):
        processes.shares_of_cores(2)


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    """Ten classes of two pictures of 32 pixels, to train and to test."""
    root = tmp_path_factory.mktemp('pictures')
    for split in ('train', 'test'):
        for label in range(10):
            folder = root / split / f'class{label}'
            folder.mkdir(parents=True)
            for i in range(2):
                cv2.imwrite(str(folder / f'{i}.jpg'), np.full((32, 32, 3), 20 * label, np.uint8))
    return root


@pytest.mark.parametrize('path', SUITES, ids=lambda path: path.stem)
def test_suites_of_the_project(path, pictures):
    """Each arm has a config that differs from another's in growth only, and can be trained."""
    suite = read_suite(str(path))
    names = [entry['name'] for entry in suite['tables']]
    assert len(names) == len(set(names))
    assert len(suite['seeds']) >= 3 and 'baseline' in ''.join(suite['arms'])
    options = {} if path.stem == 'mnist5k' else {
        'data_root': str(pictures), 'train_dataloader.batch_size': 10}
    configs = {}
    for arm, settings in suite['arms'].items():
        cfg = make_config(str(path.parent), suite, arm, 7, options)
        assert cfg.randomness == dict(seed=7) and cfg.custom_hooks[0].type == 'AutoProgHook'
        assert cfg.param_scheduler[-1].end == cfg.train_cfg.max_epochs == cfg.train_cfg.val_interval
        configs.setdefault(settings['base'], []).append(cfg)
    for same in configs.values():
        places = {place for cfg in same[1:]
                  for place in differing(same[0].to_dict(), cfg.to_dict())}
        growth = r'custom_hooks\.0|optim_wrapper\.(growth|optimizer_state|ema_decays)'
        assert all(re.match(growth, place) for place in places), places
        searched = ([cfg for cfg in same if cfg.custom_hooks[0].get('search')] or same)[-1]
        plan = make_plan(prepare_config(searched, argparse.Namespace(
            config=str(path), work_dir=None, launcher='none', amp=False, resume=None,
            no_pin_memory=False, cfg_options=None)))
        assert plan.stages[0].subnet == SMALLEST[path.stem]
        assert plan.stages[-1].subnet == plan.full


# --------------------------------------------------------------------- tables


def result(arm, seed, top1, seconds, **other):
    stage = dict(subnet=dict(depth=2, resolution=16), search=None,
                 seconds=dict(data=1., train=seconds - 1.5, search=0., growth=0.5, val=9.))
    record = dict(stages=[stage], train_seconds=seconds,
                  run=dict(device='CPU, 1 threads', versions=dict(torch='2.13.0')))
    return dict(arm=arm, seed=seed, top1=top1, top1_online=top1 - 1, train_seconds=seconds,
                date='2026-01-02', jobs=2, cores=1, record=record,
                machine=dict(cpu='a CPU', cores=2, python='3.11.7', gpu=None), **other)


@pytest.fixture
def results(tmp_path):
    runs = [result('baseline', 1, 90., 100.), result('baseline', 2, 91., 110.),
            result('baseline', 3, 92., 120.), result('prog', 1, 91., 50.),
            result('prog', 2, 91.5, 50.), result('prog', 3, 94., 80.)]
    path = tmp_path / 'results.json'
    path.write_text(json.dumps(dict(
        schema=1, suite='s', seeds=[1, 2, 3], arms=dict(baseline={}, prog={}, other={}),
        runs=runs, tables=[
            dict(name='main', arms=['baseline', 'prog', 'other']),
            dict(name='ema', kind='weights', arms=['prog']),
            dict(name='ledger', kind='ledger', arms=['prog'])])))
    return path


def test_paired_differences_by_hand():
    """Differences 1, 0.5, 2: mean 7/6, s = sqrt(7/12), t(2) = 4.303."""
    found = paired.paired({1: 91., 2: 91.5, 3: 94., 9: 0.}, {1: 90., 2: 91., 3: 92.})
    assert found.mean == pytest.approx(7 / 6)
    assert found.half == pytest.approx(4.303 * (7 / 12)**0.5 / 3**0.5)
    assert found.pairs == 3 and str(found) == '+1.17 [-0.73, +3.06], 3 pairs'
    assert str(paired.paired({1: 2.}, {1: 1.})) == '+1.00 (one pair)'
    assert paired.paired({1: 2.}, {2: 1.}) is None


def test_t_quantiles():
    """By integrating Student's density, in place of looking them up."""
    for freedom, quantile in enumerate(paired.T_975, 1):
        x = np.linspace(0, quantile, 200001)
        log_scale = lgamma((freedom + 1) / 2) - lgamma(freedom / 2) - np.log(freedom * pi) / 2
        density = np.exp(log_scale - (freedom + 1) / 2 * np.log1p(x**2 / freedom))
        assert 0.5 + np.trapezoid(density, x) == pytest.approx(0.975, abs=5e-5)


def test_table_by_hand(results):
    lines = table.Results(str(results)).table('main').splitlines()
    assert lines[2] == '| baseline | 3 | 91.00 ± 1.00 |  | 110.0 ± 10.0 |  |  |'
    # (100 + 110 + 120) / (50 + 50 + 80) = 1.83; 100/50, 110/50 and 120/80 by seed.
    assert lines[3] == ('| prog | 3 | 92.17 ± 1.61 | +1.17 [-0.73, +3.06], 3 pairs | 60.0 ± 17.3 | '
                        '1.83 | 1.50 to 2.20 |')
    assert lines[-1] == 'Not run: other.'


def test_missing_seeds_are_told(results):
    data = json.loads(results.read_text())
    data['runs'] = [row for row in data['runs'] if (row['arm'], row['seed']) != ('prog', 2)]
    results.write_text(json.dumps(data))
    text = table.Results(str(results)).table('main')
    # 91 - 90 and 94 - 92; (100 + 120) / (50 + 80).
    assert '| +1.50 [-4.85, +7.85], 2 pairs |' in text and '| 1.69 |' in text
    assert text.endswith('\nNot run: prog (seeds 2); other.\n')


def test_other_tables(results):
    results = table.Results(str(results))
    assert '| prog | 3 | 92.17 ± 1.61 | 91.17 ± 1.61 | +1.00 [+1.00, +1.00], 3 pairs |' in \
        results.table('ema')
    assert '| prog | 1 | 1.0 | 58.5 | 0.0 | 0.5 |' in results.table('ledger')
    assert results.table('runs').count('\n') == 2 + 6
    assert '2026-01-02: a CPU, 2 cores, 2 runs at once with 1 cores each; torch 2.13.0, ' in \
        results.table('machine')
    with pytest.raises(ValueError, match="no table 'mein'"):
        results.table('mein')


def test_page_is_filled_and_the_rest_stays(results):
    page = ('# A\n<!-- table: s main -->\nold\n<!-- end -->\ntext\n'
            '<!-- table: t main -->\nother\n<!-- end -->\n')
    filled = table.fill(page, {'s': table.Results(str(results))})
    assert 'old' not in filled and '| prog | 3 |' in filled
    assert filled.startswith('# A\n') and filled.endswith(
        '\ntext\n<!-- table: t main -->\nother\n<!-- end -->\n')
    assert table.fill(filled, {'s': table.Results(str(results))}) == filled


def test_page_has_the_tables_of_the_committed_results():
    """No figure on the page was typed, and all that was run is there."""
    suites = {found.suite: found for found in map(table.Results, map(str, RESULTS))}
    text = PAGE.read_text(encoding='utf-8')
    assert table.fill(text, suites) == text
    places = {(suite, name) for _, suite, name, _, _ in table.PLACE.findall(text)}
    assert places == {(found.suite, name) for found in suites.values()
                      for name in ('machine', 'runs', *found.tables)}


@pytest.mark.parametrize('path', RESULTS, ids=lambda path: path.stem)
def test_committed_results_are_of_matched_runs(path, tmp_path):
    """Of the suite's configs, on the same machine; a seed once an arm, and no path of a machine."""
    data = json.loads(path.read_text())
    folder = ROOT / 'configs' / 'experiments'
    suite, there = read_suite(str(folder / f'{data["suite"]}.py')), tmp_path / 'there.json'
    # Searches had options that are no more, and their arms are gone from the suites.
    there.write_text(json.dumps(
        dict(data, runs=[row for row in data['runs'] if row['arm'] in suite['arms']])))
    check_old_results(suite, str(folder), {}, str(there))
    assert 'data_root' not in path.read_text()
    by_base = {}
    for row in data['runs']:
        told = row['record']['run']
        assert told['seed'] == row['seed'] and row['record']['finished']
        by_base.setdefault(data['arms'][row['arm']]['base'], set()).add(json.dumps(
            [told[key] for key in ('epochs', 'batch_size', 'steps_per_epoch', 'samples',
                                   'dataset', 'versions', 'device')] +
            [row['machine'], row['jobs'], row['cores']]))
    assert all(len(kinds) == 1 for kinds in by_base.values())
    pairs = [(row['arm'], row['seed']) for row in data['runs']]
    assert len(pairs) == len(set(pairs))
