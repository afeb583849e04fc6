# Copyright (c) the autoprog_mm authors. All rights reserved.
"""A copy of an image folder in which images are no larger than needed."""
import multiprocessing
import os
import os.path as osp
import signal
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from typing import Callable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import cv2
import numpy as np
from PIL import Image

from ..utils.errors import one_line
from ..utils.files import replacing

_JPEG_ENDINGS = ('.jpg', '.jpeg')
_CHUNK = 16  # images that a process is given at a time
_CLOCK_SECONDS = 2  # to which file systems round times


class Settings(NamedTuple):
    """How images are resized.

    Args:
        short_side (int): Pixels of the shorter side. What has no more is
            copied as it is.
        quality (int): Of JPEGs, 1 to 100.
    """

    short_side: int
    quality: int


class Outcome(NamedTuple):
    """What became of images.

    Args:
        resized (int): Images that were resized.
        copied (int): Images that were copied as they are.
        failed (list): [path, reason] of those that were not.
    """

    resized: int
    copied: int
    failed: List[Tuple[str, str]]


def resize_image(content: bytes, name: str, settings: Settings) -> Optional[bytes]:
    """Content of the smaller file.

    The image is as training sees it: of three channels, turned as its Exif
    orientation says. JPEGs become JPEGs without Exif, others keep their format.

    Args:
        content (bytes): Of the file.
        name (str): Of the file; its ending is the format to write.
        settings (Settings): How to resize.

    Returns:
        bytes | None: None if the image is small already.

    Raises:
        ValueError: If it can't be read or written.
    """
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    if image is None:
        raise ValueError('the image cannot be read')
    height, width = image.shape[:2]
    factor = settings.short_side / min(height, width)
    if factor >= 1:
        return None
    size = max(settings.short_side, round(width * factor)), \
        max(settings.short_side, round(height * factor))
    # Pillow's filter covers all pixels when shrinking, cv2's would alias.
    image = np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    ending = osp.splitext(name)[1].lower()
    options = [cv2.IMWRITE_JPEG_QUALITY, settings.quality] if ending in _JPEG_ENDINGS else []
    if ending == '.pgm':  # of one channel
        image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    done, encoded = cv2.imencode(ending, image, options)
    if not done:
        raise ValueError(f'the image cannot be written as {ending}')
    return encoded.tobytes()


def is_current(source: str, target: str) -> bool:
    """Whether the copy of an image is there, all of it, and of what the image is now.

    Renaming makes files appear at once, but a power cut may empty them.

    Args:
        source (str): The image.
        target (str): Its copy, which has the image's time.
    """
    try:
        if abs(os.stat(source).st_mtime - os.stat(target).st_mtime) > _CLOCK_SECONDS:
            return False
        with open(target, 'rb') as file:
            beginning = file.read(2)
            if beginning != b'\xff\xd8':  # no JPEG
                return bool(beginning.strip(b'\0'))
            file.seek(-2, os.SEEK_END)
            return file.read() == b'\xff\xd9'
    except OSError:
        return False


def prepare_images(source: str, target: str, names: Sequence[str], settings: Settings) -> Outcome:
    """Make the copies of some images in this process.

    Args:
        source (str): Folder of the images.
        target (str): Folder of the copies; their folders must exist.
        names (Sequence[str]): Paths below both.
        settings (Settings): How to resize.

    Returns:
        Outcome: What was done. No image stops the others.
    """
    resized, failed = 0, []
    for name in names:
        try:
            image, copy = osp.join(source, name), osp.join(target, name)
            times = os.stat(image)  # before it is read: it may change meanwhile
            with open(image, 'rb') as file:
                content = file.read()
            smaller = resize_image(content, name, settings)
            with replacing(copy, durable=False) as beside:
                with open(beside, 'wb') as file:
                    file.write(content if smaller is None else smaller)
                os.utime(beside, ns=(times.st_atime_ns, times.st_mtime_ns))
            resized += smaller is not None
        except Exception as error:  # whatever it is, it is reported and the others go on
            failed.append((name, one_line(error)))
    return Outcome(resized, len(names) - resized - len(failed), failed)


def prepare_all(source: str, target: str, names: Sequence[str], settings: Settings,
                processes: int, progress: Callable[[int], None]) -> Outcome:
    """Make the copies of images, in several processes.

    Args:
        source (str): Folder of the images.
        target (str): Folder of the copies; their folders must exist.
        names (Sequence[str]): Paths below both.
        settings (Settings): How to resize.
        processes (int): How many processes; with 1 it is this one.
        progress (Callable): Is told how many images more are done.

    Returns:
        Outcome: What was done.

    Raises:
        BrokenProcessPool: If a process dies. What is there stays.
    """
    chunks = (names[i:i + _CHUNK] for i in range(0, len(names), _CHUNK))
    outcomes = []
    for outcome in _outcomes(source, target, chunks, settings, processes):
        outcomes.append(outcome)
        progress(outcome.resized + outcome.copied + len(outcome.failed))
    return Outcome(
        sum(outcome.resized for outcome in outcomes), sum(outcome.copied for outcome in outcomes),
        sorted(failure for outcome in outcomes for failure in outcome.failed))


def _outcomes(source: str, target: str, chunks: Iterator[Sequence[str]], settings: Settings,
              processes: int) -> Iterator[Outcome]:
    if processes == 1:
        threads = cv2.getNumThreads()
        cv2.setNumThreads(0)
        try:
            for chunk in chunks:
                yield prepare_images(source, target, chunk, settings)
        finally:
            cv2.setNumThreads(threads)
        return
    context = multiprocessing.get_context('fork' if sys.platform == 'linux' else 'spawn')
    pool = ProcessPoolExecutor(processes, context, _init_process)
    try:
        # A few chunks ahead, not all: there may be millions of images.
        waiting = [pool.submit(prepare_images, source, target, chunk, settings)
                   for chunk in islice(chunks, 4 * processes)]
        while waiting:
            yield waiting.pop(0).result()
            waiting += [pool.submit(prepare_images, source, target, chunk, settings)
                        for chunk in islice(chunks, 1)]
    finally:
        pool.shutdown(cancel_futures=True)


def _init_process() -> None:
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that it cleans up

    def end_with_parent() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
