# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Making label maps of images, in one process or several."""
import argparse
import contextlib
import io
import os.path as osp
import signal
import sys
import time
from multiprocessing import connection, parent_process
from typing import Callable, Dict, Iterator, List, NamedTuple, Sequence, Tuple

import cv2
import torch
from mmengine.utils import ProgressBar
from torch.utils.data import DataLoader, Dataset

from ..datasets.transforms.token_label import MAX_HALF_CLASSES
from ..utils.errors import one_line
from ..utils.files import write_atomically
from .teachers import DenseTeacher, ImageReader, build_teacher

_POLL_SECONDS = 0.2
_STOP_SECONDS = 20


class Image(NamedTuple):
    """An image to make the map of."""

    slot: int  # in its batch
    path: str  # below IMAGE_ROOT
    label: int  # number of its class folder, -1 without one


class Result(NamedTuple):
    """What a process has done."""

    agreed: int  # images whose best class is that of their folder
    failed: List[Tuple[str, str]]  # paths, and why


def map_path(image: str) -> str:
    """Path of an image's map below the folder of the maps.

    Args:
        image (str): Path of the image below its folder.
    """
    return osp.splitext(image)[0] + '.pt'


def map_bytes(teacher: DenseTeacher, topk: int) -> int:
    """Size of the file of each map.

    Args:
        teacher (DenseTeacher): Makes the maps.
        topk (int): Classes of each cell.
    """
    empty = torch.zeros(2, topk, *teacher.grid, dtype=_map_dtype(teacher.num_classes))
    return len(_encode(empty))


def _map_dtype(num_classes: int) -> torch.dtype:
    return torch.float16 if num_classes <= MAX_HALF_CLASSES else torch.float32


def _encode(label_map: torch.Tensor) -> bytes:
    """A map as the content of its file, whose size depends on the shape only."""
    buffer = io.BytesIO()
    torch.save(label_map.clone(), buffer)  # the tensor alone, not the batch that it is part of
    return buffer.getvalue()


class _Batches(Dataset):
    """Reads a batch of images at a time.

    Args:
        root (str): Folder of the images.
        batches (list[list[Image]]): What to read.
        batch_size (int): Slots of each batch; those without image are black.
        reader (ImageReader): Reads an image.
    """

    def __init__(self, root: str, batches: List[List[Image]], batch_size: int,
                 reader: ImageReader) -> None:
        self.root = root
        self.batches = batches
        self.reader = reader
        self.shape = (batch_size, reader.channels, reader.size, reader.size)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Tuple[int, torch.Tensor, Dict[int, str]]:
        """The batch's number, its images, and by slot what could not be read."""
        images, errors = torch.zeros(self.shape, dtype=torch.uint8), {}
        for image in self.batches[index]:
            try:
                images[image.slot] = self.reader(osp.join(self.root, image.path))
            except Exception as error:  # whatever it is, it is reported and the others go on
                errors[image.slot] = one_line(error)
        return index, images, errors


def _init_worker(_: int) -> None:
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that it works for ends it
    sys.excepthook = _tell_of_error


def _tell_of_error(kind: type, error: BaseException, trace) -> None:
    """Errors of a thread that hands out tensors, to a process that may have ended already."""
    if not issubclass(kind, ConnectionError):
        sys.__excepthook__(kind, error, trace)


def _make_maps(args: argparse.Namespace, teacher: DenseTeacher, batches: List[List[Image]],
              device: str, progress: Callable[[int], None]) -> Result:
    """Make the maps of some batches.

    Args:
        args (Namespace): Of the command line.
        teacher (DenseTeacher): Will be moved to ``device``.
        batches (list[list[Image]]): What to do.
        device (str): Where the teacher runs.
        progress (Callable): Is told how many images more are done.
    """
    if device != 'cpu':
        torch.cuda.set_device(device)  # that of pinned memory, too
    teacher = teacher.to(device)
    dtype = _map_dtype(teacher.num_classes)
    loader = DataLoader(
        _Batches(args.image_root, batches, args.batch_size, teacher.reader),
        batch_size=None,
        num_workers=args.workers,
        # Not anew from nothing, the custom of processes that were started so themselves.
        multiprocessing_context='fork' if args.workers and sys.platform == 'linux' else None,
        worker_init_fn=_init_worker,
        pin_memory=device != 'cpu')
    agreed, failed = 0, []
    for index, inputs, errors in loader:
        with torch.inference_mode():
            with torch.autocast('cuda', enabled=args.amp):
                scores = teacher(teacher.preprocess(inputs)).float()  # (B, h, w, num_classes)
            best_class = scores.mean(dim=(1, 2)).argmax(dim=1).tolist()
            maps = torch.stack([part.to(dtype) for part in scores.topk(args.topk)], dim=1)
            maps = maps.permute(0, 1, 4, 2, 3).contiguous().cpu()  # (B, 2, k, h, w)
            finite = maps.isfinite().flatten(1).all(dim=1).tolist()
        for image in batches[index]:
            if image.slot not in errors and not finite[image.slot]:
                errors[image.slot] = f'the teacher gives scores that are not finite in {dtype}'
            if image.slot in errors:
                failed.append((image.path, errors[image.slot]))
                continue
            write_atomically(osp.join(args.out, map_path(image.path)), _encode(maps[image.slot]),
                             durable=False)
            agreed += best_class[image.slot] == image.label
        progress(len(batches[index]))
    return Result(agreed, failed)


# ------------------------------------------------------------------ processes


def make_all_maps(args: argparse.Namespace, teacher: DenseTeacher, batches: List[List[Image]],
                  num_left: int) -> Result:
    """Make all maps, in this process or in several others.

    Args:
        args (Namespace): Of ``tools/token_label/generate.py``.
        teacher (DenseTeacher): Makes the maps.
        batches (list[list[Image]]): What to do, at least one batch.
        num_left (int): Number of images in them.

    Returns:
        Result: What was done.

    Raises:
        RuntimeError: If a process dies.
    """
    number = min(args.processes, len(batches))
    bar = ProgressBar(num_left, file=sys.stdout)
    try:
        if number == 1:
            return _make_maps(args, teacher, batches, _device_of(0), bar.update)
        return _run_processes(args, [batches[i::number] for i in range(number)], bar)
    finally:
        print(flush=True)  # ends the line of the bar


def _device_of(number: int) -> str:
    return f'cuda:{number % torch.cuda.device_count()}' if torch.cuda.is_available() else 'cpu'


def _run_processes(args: argparse.Namespace, shares: List[List[List[Image]]],
                  bar: ProgressBar) -> Result:
    """Give each of several processes its share, and wait for all.

    Raises:
        RuntimeError: If one of them dies; the others are stopped then.
    """
    context = torch.multiprocessing.get_context('spawn')
    # One counter each and no lock, which a process could take to its grave.
    done = context.RawArray('q', len(shares))
    processes, pending, results = [], {}, []
    try:
        with _ctrl_c_ignored():  # by the processes, which end when this one says so
            for number, batches in enumerate(shares):
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(
                    target=_work, args=(number, len(shares), args, batches, done, sender))
                process.start()
                sender.close()
                processes.append(process)
                pending[number] = receiver
        while pending:
            connection.wait(list(pending.values()), timeout=_POLL_SECONDS)
            if sum(done) > bar.completed:
                bar.update(sum(done) - bar.completed)
            for number, receiver in list(pending.items()):
                alive = processes[number].is_alive()  # asked first: it may send and end meanwhile
                try:
                    if receiver.poll():
                        results.append(receiver.recv())
                        del pending[number]
                    elif not alive:
                        raise EOFError
                except EOFError:
                    processes[number].join()
                    raise RuntimeError(
                        f'Process {number} of {len(shares)} died with exit code '
                        f'{processes[number].exitcode}, what it said is above; all others were '
                        'stopped. Run the same command again to go on.') from None
        for process in processes:
            process.join()
    finally:
        _stop(processes)
    return Result(
        sum(result.agreed for result in results),
        sorted(failure for result in results for failure in result.failed))


def _work(number: int, num_processes: int, args: argparse.Namespace, batches: List[List[Image]],
         done: Sequence[int], sender: connection.Connection) -> None:
    """What a process does."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that it cleans up

    def progress(count: int) -> None:
        done[number] += count
        if not parent_process().is_alive():
            sys.exit('The main process is gone.')

    torch.set_num_threads(max(1, torch.get_num_threads() // num_processes))
    teacher = build_teacher(args.teacher, args.checkpoint, args.pretrained, args.num_classes,
                            args.img_size)
    sender.send(_make_maps(args, teacher, batches, _device_of(number), progress))


@contextlib.contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _stop(processes: Sequence) -> None:
    for process in processes:
        process.terminate()  # if it still runs
    end = time.monotonic() + _STOP_SECONDS
    for process in processes:
        process.join(max(0., end - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
