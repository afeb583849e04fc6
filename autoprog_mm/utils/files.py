# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Files of which a reader, or a kill, never sees half."""
import contextlib
import os
import re
from pathlib import Path
from typing import Iterator, Union

from mmengine.fileio import LocalBackend, register_backend

# Name of a file that is being written beside its place; a kill leaves it there.
UNFINISHED = re.compile(r'\.\d+\.tmp$')


@contextlib.contextmanager
def replacing(path: Union[str, Path], durable: bool = True) -> Iterator[str]:
    """A name beside a file for its new content, which takes the file's place at the end.

    If the block raises an error the file stays as it was, and what is beside
    it is removed. A link stays one, and what it leads to is written. What is
    no file, such as ``/dev/stdout``, is written as it is.

    Args:
        path (str | Path): The file to (over)write.
        durable (bool): Whether to bring the content to the disk before it gets
            its name, so that not even a power cut leaves an empty file. For
            many small files that takes longer than to make them.
            Defaults to True.

    Yields:
        str: The file to write instead.
    """
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        yield str(path)  # or a file would take the device's place
        return
    path = os.path.realpath(path)
    beside = f'{path}.{os.getpid()}.tmp'
    try:
        yield beside
        if durable:
            with open(beside, 'rb+') as file:
                os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:  # a full disk must not stay full of what is of no use
        with contextlib.suppress(OSError):
            os.remove(beside)
        raise
    if durable:
        _sync_folder(os.path.dirname(os.path.abspath(path)))


def write_atomically(path: Union[str, Path], content: Union[str, bytes],
                     durable: bool = True) -> None:
    """Write a file by :func:`replacing` it.

    Args:
        path (str | Path): The file to (over)write.
        content (str | bytes): Its new content; a text is written as UTF-8.
        durable (bool): See :func:`replacing`. Defaults to True.
    """
    with replacing(path, durable) as beside, open(beside, 'wb') as file:
        file.write(content.encode() if isinstance(content, str) else content)


def _sync_folder(path: str) -> None:
    """Bring a rename to the disk, where the system can do that."""
    try:
        folder = os.open(path, os.O_RDONLY)
    except OSError:  # Windows can't open folders
        return
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class AtomicLocalBackend(LocalBackend):
    """mmengine's local file backend that writes by :func:`write_atomically`."""

    def put(self, obj: bytes, filepath: Union[str, Path]) -> None:
        """Write bytes; see the parent."""
        os.makedirs(os.path.dirname(os.path.abspath(filepath)), exist_ok=True)
        write_atomically(filepath, obj)

    def put_text(self, obj: str, filepath: Union[str, Path], encoding: str = 'utf-8') -> None:
        """Write a text; see the parent."""
        self.put(obj.encode(encoding), filepath)


register_backend('AtomicLocalBackend', AtomicLocalBackend, force=True)
