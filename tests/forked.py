# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Run scripts in processes that are forked from the test's own.

A fresh interpreter takes seconds to import torch, mmengine and mmpretrain
before it does what a test is about. A fork has them already; all that a script
can see of this process (arguments, environment, folder, signal handlers,
mmengine's instances, standard streams) is as in a fresh one.
"""
import io
import logging
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Mapping, Optional, Sequence

from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer

_FORK = multiprocessing.get_context('fork')


class Forked:
    """A script that runs in a fork of this process.

    Args:
        argv (Sequence): Path of the script, and its arguments.
        cwd (Path, optional): Folder to run in. Defaults to None, this one.
        env (dict, optional): Added to the environment. Defaults to None.
        output (Path, optional): File that gets both streams.
            Defaults to None, a temporary one.
        new_session (bool): Whether it leads a process group, for signals to
            all of its processes. Defaults to False.
    """

    def __init__(self,
                 argv: Sequence,
                 cwd: Optional[Path] = None,
                 env: Optional[Mapping[str, str]] = None,
                 output: Optional[Path] = None,
                 new_session: bool = False) -> None:
        self._output = open(output, 'ab') if output else tempfile.TemporaryFile()
        self._process = _FORK.Process(
            target=_run, args=([str(part) for part in argv], cwd, dict(env or {}),
                               self._output.fileno(), new_session))
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> Optional[int]:
        """int | None: The exit status, as of ``subprocess``; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: Optional[float] = 240) -> int:
        """Wait for its end.

        Returns:
            int: The exit status.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
            raise subprocess.TimeoutExpired('a forked script', timeout, self.output)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    @property
    def output(self) -> str:
        """str: What it has written so far."""
        return os.pread(self._output.fileno(), 1 << 24, 0).decode() \
            if not self._output.name or isinstance(self._output.name, int) else \
            Path(self._output.name).read_text()


def run_script(*argv, cwd=None, env=None, timeout: float = 240) -> subprocess.CompletedProcess:
    """Run a script to its end.

    Args:
        *argv: Path of the script, and its arguments.
        cwd (Path, optional): See :class:`Forked`.
        env (dict, optional): See :class:`Forked`.
        timeout (float): Seconds until it is killed. Defaults to 240.

    Returns:
        CompletedProcess: ``stdout`` has both streams.
    """
    process = Forked(argv, cwd, env)
    code = process.wait(timeout)
    return subprocess.CompletedProcess(argv, code, process.output)


def _run(argv, cwd, env, output, new_session) -> None:
    if new_session:
        os.setsid()
    for stream, number in (('stdout', 1), ('stderr', 2)):
        os.dup2(output, number)
        setattr(sys, stream, io.TextIOWrapper(
            open(number, 'wb', 0, closefd=False), write_through=True))
        setattr(sys, f'__{stream}__', getattr(sys, stream))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    for kind in (MMLogger, MessageHub, Visualizer, DefaultScope):
        kind._instance_dict.clear()
    logging.root.handlers.clear()  # pytest's, which keep what is logged
    os.environ.update(env)
    os.environ.pop('PYTEST_CURRENT_TEST', None)
    if cwd is not None:
        os.chdir(cwd)
    sys.argv[:] = argv
    sys.path.insert(0, str(Path(argv[0]).parent))
    runpy.run_path(argv[0], run_name='__main__')
