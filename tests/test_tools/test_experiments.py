# Copyright (c) the autoprog_mm authors. All rights reserved.
"""tools/experiments: runs of a suite, and the tables made of them."""
import argparse
import fcntl
import json
import os
import re
import signal
import time
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
    import processes
    import train_run
    from results import read_results
    from suite import fingerprint, make_config, read_suite

# What the last arm that grows begins with, by hand.
SMALLEST = dict(mnist5k=Subnet(3, 16), volo_micro=Subnet(3, 24), cifar10=Subnet(5, 12),
                cifar10_cpu=Subnet(5, 12), cifar10_new=Subnet(5, 12), cifar10_long=Subnet(5, 12),
                cifar10_tuning=Subnet(5, 12))
# Of the suite below, two of four epochs at 2x16, the others at 4x32. Multiply-adds by hand,
# with 4 and 16 patches of 3 * 8 * 8 numbers, a class token, and layers of 2048 weights:
#    4 * 192 * 16 + 2 * ( 5 * 2048 + 2 *  5**2 * 16) =  34368
#   16 * 192 * 16 + 4 * (17 * 2048 + 2 * 17**2 * 16) = 225408
COMPUTE = dict(baseline=1., prog=(2 * 34368 + 2 * 225408) / (4 * 225408))
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
        assert row['compute'] == pytest.approx(COMPUTE[name])
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
    (("name='main'", "name='main', kind='rivals'"), r"there is none for \['prog'\]"),
    (("name='main', arms=['baseline', ", "name='main', kind='curve', arms=["),
     'must have arms that grow, and the full network'),
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
    names = [entry['name'] for entry in suite.get('tables', [])]
    assert len(names) == len(set(names))
    assert len(suite['seeds']) >= 2 and 'full' in ''.join(suite['arms'])
    options = {} if path.stem in ('mnist5k', 'volo_micro') else {
        'data_root': str(pictures), 'train_dataloader.batch_size': 10,
        'train_dataloader.dataset.max_per_class': None}
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
        grown = [cfg for cfg in same if cfg.custom_hooks[0].num_stages > 1][-1]
        plan = make_plan(prepare_config(grown, argparse.Namespace(
            config=str(path), work_dir=None, launcher='none', amp=False, resume=None,
            no_pin_memory=False, cfg_options=None)))
        assert plan.stages[0].subnet == SMALLEST[path.stem]
        assert plan.stages[-1].subnet == plan.full
        if grown.custom_hooks[0].get('speedup'):
            assert plan.speed_up.low == pytest.approx(grown.custom_hooks[0].speedup, rel=0.03)


def test_arms_are_named_after_what_they_are():
    for path in SUITES:
        for name, arm in read_suite(str(path))['arms'].items():
            kind, _, speedup = name.replace('deit-s ', '').replace('deit-t ', '').partition(' ')
            if kind in ('full', 'growth'):
                hook = arm.get('hook', {})
                assert f'{hook.get("speedup", "")}' == speedup, name
                assert (hook.get('num_stages', 1) == 1) == (kind == 'full'), name
                assert not speedup or (hook['budget'], hook['search']) == ('flops', None), name


def test_new_images_are_of_no_other_suite_and_nothing_is_tuned_on_them():
    suites = {name: read_suite(str(ROOT / 'configs' / 'experiments' / f'cifar10_{name}.py'))
              for name in ('cpu', 'new', 'long')}
    images = [range(1000)]  # that settings are chosen on
    for name, suite in suites.items():
        cfg = make_config(str(ROOT / 'configs' / 'experiments'), suite, 'full', 20, {})
        most = cfg.train_dataloader.dataset.max_per_class
        images.append(range(most) if isinstance(most, int) else range(*most))
        if name != 'cpu':
            assert all(not set(images[-1]) & set(other) for other in images[:-1]), name
        shared = set(suite['arms']) & set(suites['cpu']['arms'])
        assert len(shared) > 1 and all(
            suite['arms'][arm] == suites['cpu']['arms'][arm] for arm in shared)
    assert [len(part) for part in images[1:]] == [500, 1000, 2500]
