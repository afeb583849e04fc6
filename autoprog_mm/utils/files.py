# Copyright (c) the autoprog_mm authors. All rights reserved.
import contextlib
import os
from pathlib import Path
from typing import Union

from mmengine.fileio import LocalBackend, register_backend

# Ending of a file that is being written beside its place.
BESIDE = '.tmp'


def write_atomically(path: str, text: str) -> None:
    """Write a text file so that a reader, or a kill, never sees half of it.

    The text is written beside the file, brought to the disk, and renamed.

    Args:
        path (str): The file to (over)write.
        text (str): Its new content.
    """
    _write(path, text.encode())


def _write(path: Union[str, Path], content: bytes) -> None:
    beside = f'{path}{BESIDE}'
    try:
        with open(beside, 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:  # a full disk must not stay full of what is of no use
        with contextlib.suppress(OSError):
            os.remove(beside)
        raise
    _sync_folder(os.path.dirname(os.path.abspath(path)))


def write_renamed(path: str, content: bytes) -> None:
    """Write a file so that nobody ever sees half of it, for many small files.

    It isn't brought to the disk at once, which would take longer than to make
    it: a power cut may leave a file empty. Several processes may write into
    one folder.

    Args:
        path (str): The file to (over)write.
        content (bytes): Its new content.
    """
    beside = f'{path}.{os.getpid()}{BESIDE}'
    try:
        with open(beside, 'wb') as file:
            file.write(content)
        os.replace(beside, path)
    except BaseException:  # Ctrl-C and the end of a worker, too
        with contextlib.suppress(FileNotFoundError):
            os.remove(beside)
        raise


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
    """mmengine's local file backend, writing files beside their place first."""

    def put(self, obj: bytes, filepath: Union[str, Path]) -> None:
        """Write bytes as :func:`write_atomically` does.

        Args:
            obj (bytes): The content.
            filepath (str | Path): The file to (over)write.
        """
        os.makedirs(os.path.dirname(os.path.abspath(filepath)), exist_ok=True)
        _write(filepath, obj)

    def put_text(self, obj: str, filepath: Union[str, Path], encoding: str = 'utf-8') -> None:
        """Write a text as :func:`write_atomically` does.

        Args:
            obj (str): The content.
            filepath (str | Path): The file to (over)write.
            encoding (str): Of the file. Defaults to 'utf-8'.
        """
        self.put(obj.encode(encoding), filepath)


register_backend('AtomicLocalBackend', AtomicLocalBackend, force=True)
