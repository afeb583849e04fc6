# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Kill runs by SIGKILL at random moments, resume them, and compare the end.

Short runs on MNIST5k are killed at any moment, while a checkpoint is being
written, around a growth, or in a search, and every third one is killed again
after its resumption. What they end with must equal, bit for bit, what a run
that nothing interrupted ends with, and what ``autoprog.json`` said of a search
at the kill must stand in the final record. Works on Linux.
"""
import argparse
import json
import math
import os
import os.path as osp
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache, partial
from glob import glob
from pathlib import Path
from typing import Dict, Iterator, List, Set, Tuple

import torch

ROOT = osp.abspath(osp.join(osp.dirname(__file__), '..', '..'))
sys.path.insert(0, ROOT)  # works from a checkout that is not installed, too

from stages import read_stages  # noqa: E402

from autoprog_mm.engine.checkpoint import check_whole, load_plain  # noqa: E402
from autoprog_mm.record import reading  # noqa: E402
from autoprog_mm.utils.files import UNFINISHED, write_atomically  # noqa: E402

KINDS = ('any', 'checkpoint', 'growth', 'search')
COMPARED = ('state_dict', 'online_state_dict', 'optimizer', 'param_schedulers')
EPOCHS, STEPS, BATCH = 6, 9, 32
OPTIONS = [
    # Digits are sorted by class, so that a stride keeps all ten.
    f'train_dataloader.dataset.indices={list(range(0, 3500, 12))}'.replace(' ', ''),
    f'val_dataloader.dataset.indices={list(range(0, 1500, 6))}'.replace(' ', ''),
    'val_dataloader.batch_size=50', f'train_cfg.max_epochs={EPOCHS}', 'train_cfg.val_interval=1',
    'param_scheduler.0.end=1', 'param_scheduler.1.begin=1', f'param_scheduler.1.end={EPOCHS}',
    'custom_hooks.0.search.epochs=1', 'custom_hooks.0.search.eval_batches=2',
    'default_hooks.logger.interval=1']
BY_STEP = ['default_hooks.checkpoint.by_epoch=False', 'default_hooks.checkpoint.interval=3']
FIRST_STEP, RESUMED = r'Epoch\(train\)', r'resumed epoch|Epoch\(train\)'
WRITING = 'Being written: '  # begins a line of ours, for a checkpoint that has appeared
POLL_SECONDS = 0.0005  # a checkpoint is written in a few ms
LONGEST_SECONDS = 300  # of a run, or it hangs


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--trials', type=int, default=30, help='trials of one process')
    parser.add_argument('--two-rank-trials', type=int, default=5, help='trials of two ranks')
    parser.add_argument('--seed', type=int, default=0, help='seed of the random moments')
    parser.add_argument('--work-dir', type=osp.abspath, default='work_dirs/stress', help='folder')
    parser.add_argument('--cost', choices=('flops', 'time'), default='flops',
                        help='of the search; by time, weights are not compared')
    parser.add_argument('--config', default=f'{ROOT}/configs/autoprog/deit-micro_mnist5k.py',
                        help='on MNIST5k, with AutoProgHook as the first hook, two schedulers')
    return parser.parse_args()


def build_command(args: argparse.Namespace, ranks: int, by_epoch: bool) -> List[str]:
    """What starts a run, but for its work directory."""
    launcher, arguments = [], []
    if ranks > 1:
        with socket.create_server(('127.0.0.1', 0)) as server:
            port = server.getsockname()[1]
        launcher = ['-m', 'torch.distributed.run', f'--nproc_per_node={ranks}',
                    '--master_addr=127.0.0.1', f'--master_port={port}']
        arguments = ['--launcher', 'pytorch']
    options = OPTIONS + BY_STEP * (not by_epoch) + [
        f'custom_hooks.0.search.cost={args.cost}', f'train_dataloader.batch_size={BATCH // ranks}']
    return [sys.executable, '-W', 'ignore', *launcher, osp.join(ROOT, 'tools', 'train.py'),
            args.config, *arguments, '--cfg-options', *options]


def living_groups() -> Set[int]:
    """Groups of all processes that have not ended."""
    groups = set()
    for path in glob('/proc/[0-9]*/stat'):
        with suppress(OSError):  # it may have ended meanwhile
            state, _, group = Path(path).read_text(errors='replace').rpartition(')')[2].split()[:3]
            if state not in 'ZX':
                groups.add(int(group))
    return groups


class Run:
    """A run in processes of its own, with its log as it comes."""

    def __init__(self, command: List[str], work_dir: str, resume: bool = False) -> None:
        os.makedirs(work_dir, exist_ok=True)
        self.work_dir = work_dir
        self.log = osp.join(work_dir, f'run_{len(glob(osp.join(work_dir, "run_*.log")))}.log')
        self.lines: List[Tuple[float, str]] = []
        self._command = [*command, '--work-dir', work_dir] + ['--resume'] * resume
        self._seen = set(self.beside())

    def beside(self) -> List[str]:
        """Checkpoints that are being written."""
        return [name for name in os.listdir(self.work_dir)
                if '.pth.' in name and UNFINISHED.search(name)]

    def find(self, pattern: str) -> List[Tuple[float, 're.Match']]:
        return [(when, m) for when, line in self.lines if (m := re.search(pattern, line))]

    def watch(self, pattern: str = '', count: int = 0, delay: float = math.inf) -> bool:
        """Run to the end, unless killed some seconds after the n-th line with a pattern."""
        with open(self.log, 'w') as log, open(self.log, encoding='utf-8') as self._reader:
            self.process = subprocess.Popen(
                self._command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                env=dict(os.environ, OMP_NUM_THREADS='1'))
            end, due = time.monotonic() + LONGEST_SECONDS, math.inf
            try:
                while self.process.poll() is None and time.monotonic() < min(due, end):
                    if self._read() and due == math.inf and len(self.find(pattern)) >= count:
                        due = time.monotonic() + delay
                    time.sleep(POLL_SECONDS)
                code = self.process.poll()
            finally:
                self._kill()
            self._read()
        if code or time.monotonic() > end:
            raise RuntimeError(f'{self.log}: ' + (f'exited with {code}' if code else 'hangs'))
        return code is None  # it was killed

    def _read(self) -> bool:
        now, new = time.monotonic(), set(self.beside()) - self._seen
        self._seen |= new
        lines = [*self._reader, *(WRITING + name for name in new)]
        self.lines += [(now, line) for line in lines]
        return bool(lines)

    def _kill(self) -> None:
        """SIGKILL everything at once, and wait until nothing writes any more."""
        groups = {self.process.pid}
        with suppress(OSError):  # torch's launcher gives each rank a group of its own
            children = Path(f'/proc/{self.process.pid}/task/{self.process.pid}/children')
            groups |= {os.getpgid(int(pid)) for pid in children.read_text().split()}
        for group in groups:
            with suppress(OSError):
                os.killpg(group, signal.SIGKILL)
        self.process.wait()
        while not groups.isdisjoint(living_groups()):
            time.sleep(POLL_SECONDS)


class Reference:
    """A run that nothing interrupts: what is to come out, and when what happens."""

    def __init__(self, args: argparse.Namespace, ranks: int, by_epoch: bool) -> None:
        self.name = f'{"epoch" if by_epoch else "step"}_{ranks}'
        self.command = partial(build_command, args, ranks, by_epoch)
        work_dir = osp.join(args.work_dir, f'reference_{self.name}')
        shutil.rmtree(work_dir, ignore_errors=True)
        run = Run(self.command(), work_dir)
        run.watch()
        self.final = read_final(work_dir) if args.cost == 'flops' else None
        self.seconds = run.lines[-1][0] - run.find(FIRST_STEP)[0][0]
        self.writes = len(run.find(WRITING))
        self.growing, self.searching = read_stages(line for _, line in run.lines)

    def draw(self, kind: str, rng: random.Random, share: float) -> tuple:
        """Draw a moment, of the first ``share`` of all that are possible."""
        if kind == 'checkpoint':
            number = rng.randint(1, max(1, int(self.writes * share)))
            return WRITING, number, max(0., rng.uniform(-0.03, 0.03))  # half of them at once
        if kind == 'growth':  # from the validation before it to a few steps after it
            return rf'\(val\)\s+\[{rng.choice(self.growing) - 1}\].*top1', 1, rng.uniform(0, 0.6)
        if kind == 'search':  # from before its first step to its decision
            epoch, place = rng.choice(self.searching), rng.randint(1, STEPS + 1)
            return rf'epochs {epoch} to|Epoch\(train\)\s+\[{epoch}\]', place, rng.uniform(0, 0.2)
        return FIRST_STEP, 1, rng.uniform(0, self.seconds * share)


def read_final(work_dir: str) -> Dict[str, object]:
    """The last checkpoint's name, and the bits of what is in it."""
    path = Path(work_dir, 'last_checkpoint').read_text()
    checkpoint = load_plain(path)
    return {'name': osp.basename(path), **dict(leaves({key: checkpoint[key] for key in COMPARED}))}


def leaves(value, path: str = '') -> Iterator[Tuple[str, object]]:
    """Paths in a tree, and bits of what is there."""
    if isinstance(value, (dict, list, tuple)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, f'{path}.{key}')
    elif isinstance(value, torch.Tensor):
        yield path, (value.dtype, value.shape, value.numpy().tobytes())
    else:
        yield path, repr(value)


def read_record(work_dir: str) -> Tuple[bool, Dict[str, list]]:
    """Whether a run's record is finished, and what it says is decided."""
    record = reading.read_record(work_dir)
    return record['finished'], {str(s['index'] + 1): [s['subnet'], s['search']]
                                for s in record['stages'] if s['search'] is not None}


def inspect_kill(run: Run) -> dict:
    """Where a kill has hit, and what it left."""
    steps = run.find(r'Epoch\(train\)\s+\[(\d+)\]\[\s*(\d+)/')
    epoch, step = map(int, steps[-1][1].groups()) if steps else (1, 0)
    names = [n for n in os.listdir(run.work_dir) if re.fullmatch(r'(epoch|iter)_\d+\.pth', n)]
    for name in names:
        check_whole(osp.join(run.work_dir, name))
    tmp, place = run.beside(), f'epoch {epoch} step {step}' if steps else 'no step yet'
    return dict(where=f'{place} ({len(tmp)} .tmp, {len(names)} whole)', tmp=tmp, whole=len(names),
                left=1 - (epoch - 1 + step / STEPS) / EPOCHS,
                decisions=read_record(run.work_dir)[1])


def try_trial(reference: Reference, kind: str, kill_count: int, rng: random.Random, share: float,
              work_dir: str) -> List[dict]:
    """Kill and resume; returns the kills, none if a run ended before its kill."""
    shutil.rmtree(work_dir, ignore_errors=True)
    moment, kills = reference.draw(kind, rng, share), []
    while True:
        run = Run(reference.command(), work_dir, resume=bool(kills))
        if not run.watch(*moment):
            if kills and kills[-1]['whole'] and not run.find('resumed epoch'):
                raise RuntimeError(f'{run.log}: began anew, though there was a checkpoint')
            return [] if moment else kills
        kills.append(inspect_kill(run))
        # A run that is resumed at its very end has no step any more.
        delay = rng.uniform(0, reference.seconds * kills[-1]['left'] * share)
        moment = (RESUMED, 1, delay) if len(kills) < kill_count else ()


def check_end(reference: Reference, kills: List[dict], work_dir: str) -> List[str]:
    """What is not as it should be, in the end."""
    finished, decided = read_record(work_dir)
    wrong = [] if finished else ['the record is not finished']
    wrong += [f'the decision of stage {stage} was changed' for kill in kills
              for stage, decision in kill['decisions'].items() if decided.get(stage) != decision]
    if reference.final is not None:
        mine, theirs = read_final(work_dir), reference.final
        wrong += [k for k in sorted(mine.keys() | theirs.keys()) if mine.get(k) != theirs.get(k)]
    return wrong


def run_trial(trial: int, reference: Reference, seed: int, work_dir: str) -> dict:
    rng, kills, begin = random.Random(f'{seed}-{trial}'), [], time.monotonic()
    kind, kill_count = KINDS[trial % len(KINDS)], 2 if trial % 3 == 2 else 1
    tries = (try_trial(reference, kind, kill_count, rng, 0.7**attempt, work_dir)
             for attempt in range(6))
    try:
        kills = next(filter(None, tries), [])
        wrong = check_end(reference, kills, work_dir) if kills else ['was never killed in time']
    except (RuntimeError, OSError, ValueError) as error:
        wrong = [f'{type(error).__name__}: {error}']
    if not wrong:
        shutil.rmtree(work_dir)
    verdict = f'FAILED, {len(wrong)} wrong: {"; ".join(wrong[:3])}' if wrong else 'equal'
    where = ', then '.join(kill['where'] for kill in kills) or '?'
    print(f'trial {trial:2}  {kind:10}  {reference.name:7}  kills: {where}  {verdict}', flush=True)
    return dict(trial=trial, kind=kind, checkpoints_ranks=reference.name, kills=kills, wrong=wrong,
                passed=not wrong, seconds=round(time.monotonic() - begin, 1))


def print_summary(results: List[dict]) -> None:
    print('\nkind         trials   kills   while writing   failed')
    for kind in (*KINDS, 'all'):
        mine = [result for result in results if kind in (result['kind'], 'all')]
        kills = [kill for result in mine for kill in result['kills']]
        writing, failed = sum(bool(k['tmp']) for k in kills), sum(bool(r['wrong']) for r in mine)
        print(f'{kind:<12} {len(mine):>6} {len(kills):>7} {writing:>15} {failed:>8}')


def main() -> None:
    args = parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # by an exception, that kills the run under way
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    get_reference, results = cache(partial(Reference, args)), []
    for trial in range(args.trials + args.two_rank_trials):
        # Of each kind, half of the trials have either sort of checkpoints.
        by_epoch = bool((trial + trial // len(KINDS)) % 2)
        reference = get_reference(1 if trial < args.trials else 2, by_epoch)
        work_dir = osp.join(args.work_dir, f'trial_{trial:02}')
        results.append(run_trial(trial, reference, args.seed, work_dir))
        text = json.dumps(dict(arguments=vars(args), trials=results), indent=2) + '\n'
        write_atomically(osp.join(args.work_dir, 'kill_resume.json'), text)
    print_summary(results)
    failed = sum(not result['passed'] for result in results)
    print(f'{len(results) - failed} passed, {failed} failed')
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main()
