# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Worker processes of loaders, when a signal goes to all processes of a run."""
import os
import signal
import threading
from functools import partial
from typing import Callable, Optional

from torch.utils.data import DataLoader


def shield_workers(loader: DataLoader) -> None:
    """Have a loader's workers survive signals that go to the whole process group.

    The process that they work for decides when to stop. They end when it does.

    Args:
        loader (DataLoader): One that has not been iterated yet.
    """
    if isinstance(loader, DataLoader) and loader.num_workers > 0:
        loader.worker_init_fn = partial(_init_worker, loader.worker_init_fn)


def _init_worker(init: Optional[Callable], worker_id: int) -> None:
    for name in ('SIGINT', 'SIGUSR1'):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    # By SIGTERM the own process ends a worker, but a scheduler may send it to
    # all processes. Only a thread that waits for it can tell who sent it.
    if hasattr(signal, 'sigwaitinfo'):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_if_parent_says_so, daemon=True).start()
    if init is not None:
        init(worker_id)


def _end_if_parent_says_so() -> None:
    while True:
        if signal.sigwaitinfo({signal.SIGTERM}).si_pid == os.getppid():
            os._exit(0)
