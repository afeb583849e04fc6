# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Run a suite: each arm with each seed, in a process of its own, into one JSON file.

The arms of a suite train the same config; they differ in how the network
grows, and in nothing else. What is finished is not run again, and what was
interrupted goes on where it stopped. Results are of the final weights.
"""
import argparse
import fcntl
import hashlib
import json
import os
import os.path as osp
import platform
import signal
import subprocess
import sys
import time
from typing import Callable, Dict, List, Tuple

# Works from a checkout that is not installed, too.
sys.path.insert(0, osp.join(osp.dirname(osp.abspath(__file__)), '..', '..'))

import torch  # noqa: E402
from mmengine.config import Config, ConfigDict  # noqa: E402
from mmengine.runner import Runner  # noqa: E402

from autoprog_mm.launch import (  # noqa: E402
    OptionsAction,
    check_datasets,
    check_work_dir,
    exit_on_user_error,
    prepare_config,
    read_config,
)
from autoprog_mm.utils import (
    UserError,  # noqa: E402
    write_atomically,  # noqa: E402
)

SCHEMA = 1
RESULT = 'result.json'
STARTED = 'started.json'
CONFIG = osp.join('given', 'config.py')  # beside it would be the one that mmengine dumps
LOG = 'log.txt'
# What an arm may set: how the network grows. Everything else is the suite's.
ARM_KEYS = {
    'base': None,
    'hook': {'num_stages', 'initial_scale', 'resolution_divisor', 'regularization', 'search'},
    'optim_wrapper': {'growth', 'optimizer_state', 'ema_decays'},
}
SUITE_KEYS = {'base', 'seeds', 'arms', 'tables', 'options', 'about'}
TABLE_KINDS = {'compare', 'weights', 'choices', 'ledger'}
# What the options of all runs may not set, since it is an arm's or the seed's.
NO_OPTIONS = ('custom_hooks', 'randomness', 'work_dir', *(
    f'optim_wrapper.{key}' for key in sorted(ARM_KEYS['optim_wrapper'])))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('suite', metavar='SUITE.py', help='a file of configs/experiments/')
    parser.add_argument(
        '--work-dir', help='folder of the runs; by default work_dirs/experiments/SUITE')
    parser.add_argument(
        '--out', metavar='FILE', help='where results go; by default results.json in the work dir')
    parser.add_argument(
        '--arms', nargs='+', metavar='ARM', help='run only these arms; by default all')
    parser.add_argument(
        '--seeds', nargs='+', type=int, metavar='SEED', help="seeds; by default the suite's")
    parser.add_argument(
        '--jobs',
        type=int,
        default=1,
        help='runs at once. Without a GPU each gets its share of the CPU cores for itself')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=OptionsAction,
        default={},
        help='settings of all runs, such as data_root=/path/to/folder')
    parser.add_argument('--one', help=argparse.SUPPRESS)  # a run's folder, in its own process
    return parser.parse_args()


# ------------------------------------------------------------------ the suite


def read_suite(path: str) -> dict:
    """Read a suite and check it.

    Args:
        path (str): The file.

    Returns:
        dict: The suite; each of its arms has a ``base``.

    Raises:
        ValueError: Names what is wrong.
    """
    suite = read_config(path).to_dict()
    unknown = sorted(set(suite) - SUITE_KEYS)
    missing = sorted({'base', 'seeds', 'arms'} - set(suite))
    if unknown or missing:
        raise UserError(
            f'{path}: a suite has the keys {sorted(SUITE_KEYS)}, of which base, seeds and arms '
            f'must be there; unknown: {unknown}, missing: {missing}.')
    _check_options('options', suite.get('options', {}))
    for name, arm in suite['arms'].items():
        _check_arm(path, name, arm)
        arm.setdefault('base', suite['base'])
    for table in suite.get('tables', []):
        _check_table(path, table, suite['arms'])
    return suite


def _check_arm(path: str, name: str, arm: dict) -> None:
    unknown = sorted(set(arm) - set(ARM_KEYS))
    for part in ('hook', 'optim_wrapper'):
        unknown += [f'{part}.{key}' for key in sorted(set(arm.get(part, {})) - ARM_KEYS[part])]
    if unknown:
        raise UserError(
            f'{path}: the arm {name!r} sets {unknown}. Arms are compared, so they may differ in '
            'growth only: ' +
            '; '.join(f'{part}: {", ".join(sorted(keys))}' for part, keys in ARM_KEYS.items()
                      if keys) + '. Put what all runs have into options.')


def _check_table(path: str, table: dict, arms: dict) -> None:
    where = f'{path}: the table {table.get("name")!r}'
    if not {'name', 'arms'} <= set(table) <= {'name', 'arms', 'kind'} or \
            table.get('kind', 'compare') not in TABLE_KINDS:
        raise UserError(f'{where} must have name and arms, and may have kind, one of '
                         f'{sorted(TABLE_KINDS)}; but got {table}.')
    unknown = sorted(set(table['arms']) - set(arms))
    if unknown:
        raise UserError(f'{where} has arms that the suite lacks: {unknown}.')
    bases = sorted({arms[arm]['base'] for arm in table['arms']})
    if len(bases) > 1:
        raise UserError(f'{where} compares runs of different configs: {bases}.')


def _check_options(name: str, options: dict) -> None:
    for key in options:
        if any(key == taken or key.startswith(f'{taken}.') for taken in NO_OPTIONS):
            raise UserError(f'{name} must not set {key}: that is what arms and seeds are for.')


def make_config(folder: str, suite: dict, arm: str, seed: int, options: dict) -> Config:
    """The config of a run.

    Args:
        folder (str): Folder of the suite's file.
        suite (dict): Of :func:`read_suite`.
        arm (str): Name of the arm.
        seed (int): The seed.
        options (dict): Settings of all runs, from the command line.

    Returns:
        Config: The base config with the options, the arm's growth and the seed.
    """
    settings = suite['arms'][arm]
    cfg = read_config(osp.normpath(osp.join(folder, settings['base'])))
    for name, given in (('options', suite.get('options', {})), ('--cfg-options', options)):
        unknown = sorted(key for key in given if key.split('.')[0] not in cfg)
        if unknown:
            raise UserError(f'{name}: {settings["base"]} has no {unknown}. Check the spelling.')
        cfg.merge_from_dict(given)
    hook = ConfigDict(type='AutoProgHook', **{'num_stages': 1, **settings.get('hook', {})})
    for i, old in enumerate(cfg.custom_hooks):
        if old['type'] == 'AutoProgHook':
            if set(old) - {'type', 'num_stages'}:
                raise UserError(f'{settings["base"]}: AutoProgHook must be the baseline\'s, with '
                                 f'num_stages=1 and nothing else, but got {dict(old)}.')
            cfg.custom_hooks[i] = hook
    for key, value in settings.get('optim_wrapper', {}).items():
        cfg.optim_wrapper[key] = value
    cfg.randomness = dict(seed=seed)
    return cfg


def fingerprint(cfg: Config) -> str:
    """What tells whether two runs had the same config, wherever their data lie.

    Args:
        cfg (Config): Of :func:`make_config`.

    Returns:
        str: Begin of the SHA-256 of the config without the places of data.
    """

    def plain(value):
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if key != 'data_root'}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    text = json.dumps(plain(cfg.to_dict()), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# -------------------------------------------------------------------- one run


def train_one(work_dir: str) -> None:
    """Train the run that a folder describes, and write its result there.

    Args:
        work_dir (str): The run's folder, with its config.

    Raises:
        RuntimeError: If another process trains in this folder, or if the run
            ends before its last epoch.
    """
    lock = open(osp.join(work_dir, '.lock'), 'w')  # as long as the process lives
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise RuntimeError(f'{work_dir}: another process trains this run. Stop it, or wait.') \
            from None
    args = argparse.Namespace(
        config=osp.join(work_dir, CONFIG), work_dir=work_dir, launcher='none', amp=False,
        resume='auto' if osp.exists(osp.join(work_dir, 'last_checkpoint')) else None,
        no_pin_memory=False, cfg_options=None)
    cfg = prepare_config(read_config(args.config), args)
    check_work_dir(cfg.work_dir)
    check_datasets(cfg, ('train_dataloader', 'val_dataloader'))
    runner = Runner.from_cfg(cfg)
    runner.train()
    record = read_json(osp.join(work_dir, 'autoprog.json'))
    if not record['finished']:
        raise RuntimeError('The run was stopped before its last epoch.')
    online = evaluate(runner)
    runner.optim_wrapper.swap_momentum()
    momentum = evaluate(runner)
    result = dict(
        top1=momentum, top1_online=online, train_seconds=record['train_seconds'],
        date=time.strftime('%Y-%m-%d', time.gmtime()), machine=machine(),
        **read_json(osp.join(work_dir, STARTED)), record=record)
    write_atomically(osp.join(work_dir, RESULT), json.dumps(result))


@torch.no_grad()
def evaluate(runner: Runner) -> float:
    """Top-1 of the model as it is, in percent, by the validation's data and evaluator."""
    loader, evaluator = runner.val_dataloader, runner.val_evaluator
    runner.model.eval()
    for batch in loader:
        evaluator.process(data_batch=batch, data_samples=runner.model.val_step(batch))
    return evaluator.evaluate(len(loader.dataset))['accuracy/top1']


# ------------------------------------------------------------------ the matrix


def start(suite_path: str, work_dir: str, cores: List[int]) -> subprocess.Popen:
    """Start a run in a process of its own, which has some cores for itself."""
    environment = {**os.environ, 'OMP_NUM_THREADS': str(len(cores))}
    with open(osp.join(work_dir, LOG), 'a', encoding='utf-8') as log:
        return subprocess.Popen(
            [sys.executable, '-W', 'ignore', osp.abspath(__file__), suite_path, '--one', work_dir],
            stdout=log, stderr=subprocess.STDOUT, env=environment,
            preexec_fn=(lambda: os.sched_setaffinity(0, cores))
            if hasattr(os, 'sched_setaffinity') else None)


def shares_of_cores(jobs: int) -> List[List[int]]:
    """The cores of each of the runs at once (where they can't be assigned: how many)."""
    if jobs != 1 and torch.cuda.is_available():
        raise UserError(f'--jobs must be 1 with a GPU, which runs would share, but got {jobs}.')
    divided = hasattr(os, 'sched_getaffinity')
    cores = sorted(os.sched_getaffinity(0)) if divided else list(range(os.cpu_count()))
    if not 1 <= jobs <= len(cores):
        raise UserError(f'--jobs must be 1 to {len(cores)}, the number of cores, but got {jobs}.')
    size = len(cores) // jobs
    return [cores[i * size:(i + 1) * size] for i in range(jobs)]


def run_all(suite_path: str, todo: List[Tuple[str, int, str]], jobs: int,
            collect: Callable[[], None]) -> List[str]:
    """Run what is left to do, and collect after each run.

    Args:
        suite_path (str): The suite's file.
        todo (list[tuple]): Arm, seed and folder of each run.
        jobs (int): How many run at once.
        collect (callable): Called when a run has ended.

    Returns:
        list[str]: Folders of runs that failed.
    """
    free, running, failed, todo = shares_of_cores(jobs), {}, [], list(todo)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        while todo or running:
            while todo and free:
                arm, seed, folder = todo.pop(0)
                cores = free.pop(0)
                told = dict(jobs=jobs, cores=len(cores))
                write_atomically(osp.join(folder, STARTED), json.dumps(
                    {**read_json(osp.join(folder, STARTED)), **told}))
                running[start(suite_path, folder, cores)] = (arm, seed, folder, cores)
            time.sleep(0.5)
            for process in [process for process in running if process.poll() is not None]:
                arm, seed, folder, cores = running.pop(process)
                free.append(cores)
                if process.returncode:
                    failed.append(folder)
                    print(f'{arm}, seed {seed}: FAILED, see {osp.join(folder, LOG)}', flush=True)
                else:
                    result = read_json(osp.join(folder, RESULT))
                    print(f'{arm}, seed {seed}: top-1 {result["top1"]:.2f} %, '
                          f'{result["train_seconds"]:.1f} s of training; {len(todo)} to start',
                          flush=True)
                collect()
    except BaseException:
        for process in running:  # each leaves a checkpoint, and goes on from it next time
            process.terminate()
        for process in running:
            process.wait()
        raise
    return failed


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def read_json(path: str):
    with open(path, encoding='utf-8') as file:
        return json.load(file)


def machine() -> dict:
    """What this runs on, for whoever reads the figures."""
    model = platform.processor()
    if osp.exists('/proc/cpuinfo'):
        with open('/proc/cpuinfo', encoding='utf-8') as file:
            names = [line.split(':', 1)[1] for line in file if line.startswith('model name')]
        model = names[0].strip() if names else model
    return dict(
        cpu=model, cores=os.cpu_count(),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        system=platform.system(), python=platform.python_version())


def collect_results(suite: dict, name: str, runs: Dict[Tuple[str, int], str], out: str) -> None:
    """Write all results that there are into one file, a line each.

    Rows of other seeds and arms, which the file has already, stay.

    Args:
        suite (dict): The suite.
        name (str): Its name.
        runs (dict): Folders by arm and seed.
        out (str): The file.
    """
    rows = {}
    if osp.exists(out):
        rows = {(row['arm'], row['seed']): row for row in read_json(out)['runs']}
    for (arm, seed), folder in runs.items():
        path = osp.join(folder, RESULT)
        if osp.exists(path):
            result = read_json(path)
            result['record']['run']['dataset'].pop('data_root', None)  # is this machine's affair
            rows[arm, seed] = dict(arm=arm, seed=seed, **result)
    head = dict(schema=SCHEMA, suite=name, about=suite.get('about', ''), seeds=suite['seeds'],
                options=suite.get('options', {}), arms=suite['arms'],
                tables=suite.get('tables', []))
    order = {arm: i for i, arm in enumerate(suite['arms'])}
    lines = [json.dumps(rows[key]) for key in sorted(
        rows, key=lambda key: (order.get(key[0], len(order)), key[1]))]
    text = json.dumps(head, indent=1)[:-2] + ',\n "runs": [\n' + ',\n'.join(lines) + '\n ]\n}\n'
    write_atomically(out, text)


def check_old_results(suite: dict, folder: str, options: dict, out: str) -> None:
    """Refuse to mix results of a file with those of other configs."""
    for row in read_json(out)['runs'] if osp.exists(out) else ():
        arm, seed = row['arm'], row['seed']
        if arm not in suite['arms'] or row['config'] != fingerprint(
                make_config(folder, suite, arm, seed, options)):
            raise UserError(
                f'--out: {out} has a result of {arm}, seed {seed}, with another config than the '
                'suite and --cfg-options give now. Choose another file, or delete that line.')


def prepare(folder: str, cfg: Config) -> None:
    """Write a run's config, and refuse to go on with a run of another one."""
    path, text = osp.join(folder, CONFIG), cfg.pretty_text
    os.makedirs(osp.dirname(path), exist_ok=True)
    if osp.exists(path):
        with open(path, encoding='utf-8') as file:
            if file.read() != text:
                raise UserError(
                    f'--work-dir: {folder} has a run with another config. Delete that folder, or '
                    'choose another --work-dir.')
    write_atomically(path, text)
    write_atomically(osp.join(folder, STARTED), json.dumps(dict(config=fingerprint(cfg))))


def main() -> int:
    args = parse_args()
    if args.one:
        train_one(args.one)
        return 0
    suite, place = read_suite(args.suite), osp.dirname(args.suite)
    name = osp.splitext(osp.basename(args.suite))[0]
    work_dir = args.work_dir or osp.join('work_dirs', 'experiments', name)
    out = args.out or osp.join(work_dir, 'results.json')
    arms = args.arms or list(suite['arms'])
    unknown = sorted(set(arms) - set(suite['arms']))
    if unknown:
        raise UserError(f'--arms: {unknown} are not in {args.suite}, which has '
                         f'{list(suite["arms"])}.')
    _check_options('--cfg-options', args.cfg_options)
    shares_of_cores(args.jobs)
    check_old_results(suite, place, args.cfg_options, out)
    # Seed by seed, so that what is compared is also measured at about the same time.
    runs = {(arm, seed): osp.join(work_dir, arm.replace(' ', '_'), f'seed{seed}')
            for seed in (args.seeds or suite['seeds']) for arm in arms}
    for (arm, seed), folder in runs.items():
        cfg, result = make_config(place, suite, arm, seed, args.cfg_options), osp.join(
            folder, RESULT)
        if not osp.exists(result):
            prepare(folder, cfg)
        elif read_json(result)['config'] != fingerprint(cfg):
            raise UserError(f'--work-dir: {folder} has a result of another config. Delete that '
                             'folder, or choose another --work-dir.')
    todo = [(*key, folder) for key, folder in runs.items()
            if not osp.exists(osp.join(folder, RESULT))]
    print(f'{name}: {len(runs)} runs, {len(todo)} of them to do, {args.jobs} at once.', flush=True)

    def collect() -> None:
        collect_results(suite, name, runs, out)

    try:
        failed = run_all(args.suite, todo, args.jobs, collect)
    except KeyboardInterrupt:
        print('Stopped. The same command goes on from here.', flush=True)
        return 130
    collect()
    print(f'Results: {out}')
    return 1 if failed else 0


if __name__ == '__main__':
    with exit_on_user_error():
        sys.exit(main())
