# Copyright (c) the autoprog_mm authors. All rights reserved.
"""The processes of runs: how many at once, on which cores, and what becomes of them."""
import json
import os
import os.path as osp
import signal
import subprocess
import sys
import time
from typing import Callable, List, Tuple

import torch
from folder import LOG, RESULT, STARTED
from mmengine.fileio import load

from autoprog_mm.utils import UserError, write_atomically

SCRIPT = osp.join(osp.dirname(osp.abspath(__file__)), 'train_run.py')


def start(folder: str, cores: List[int]) -> subprocess.Popen:
    """Start a run in a process of its own, which has some cores for itself."""
    environment = {**os.environ, 'OMP_NUM_THREADS': str(len(cores))}
    with open(osp.join(folder, LOG), 'a', encoding='utf-8') as log:
        return subprocess.Popen(
            [sys.executable, '-W', 'ignore', SCRIPT, folder],
            stdout=log, stderr=subprocess.STDOUT, env=environment,
            preexec_fn=(lambda: os.sched_setaffinity(0, cores))
            if hasattr(os, 'sched_setaffinity') else None)


def shares_of_cores(jobs: int) -> List[List[int]]:
    """The cores of each of the runs at once (where they can't be assigned: how many).

    Args:
        jobs (int): How many run at once.

    Raises:
        UserError: If there are too few cores, or a GPU that runs would share.
    """
    if jobs != 1 and torch.cuda.is_available():
        raise UserError(f'--jobs must be 1 with a GPU, which runs would share, but got {jobs}.')
    divided = hasattr(os, 'sched_getaffinity')
    cores = sorted(os.sched_getaffinity(0)) if divided else list(range(os.cpu_count()))
    if not 1 <= jobs <= len(cores):
        raise UserError(f'--jobs must be 1 to {len(cores)}, the number of cores, but got {jobs}.')
    size = len(cores) // jobs
    return [cores[i * size:(i + 1) * size] for i in range(jobs)]


def run_all(todo: List[Tuple[str, int, str]], jobs: int, collect: Callable[[], None]) -> List[str]:
    """Run what is left to do, and collect after each run.

    Args:
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
                run, cores = todo.pop(0), free.pop(0)
                started = osp.join(run[2], STARTED)
                write_atomically(started, json.dumps(
                    dict(load(started), jobs=jobs, cores=len(cores))))
                running[start(run[2], cores)] = run, cores
            time.sleep(0.5)
            for process in [process for process in running if process.poll() is not None]:
                (arm, seed, folder), cores = running.pop(process)
                free.append(cores)
                if process.returncode:
                    failed.append(folder)
                    print(f'{arm}, seed {seed}: FAILED, see {osp.join(folder, LOG)}', flush=True)
                else:
                    result = load(osp.join(folder, RESULT))
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
