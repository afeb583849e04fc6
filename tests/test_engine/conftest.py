# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Runs that several tests look at; each is trained once in a process."""
import os

import pytest

from tests.micro import micro_config, run
from tests.test_engine.resuming import EVERY_STEP, SEARCHES


@pytest.fixture(scope='session')
def every_step(jpeg_root, tmp_path_factory):
    """Folder of an uninterrupted run with a search, with a checkpoint of every step."""
    folders = {}

    def folder_of(name):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp('steps')
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(os, 'fsync', lambda descriptor: None)  # fifty of them take long
                run(micro_config(jpeg_root, folders[name], SEARCHES[name], **EVERY_STEP))
        return folders[name]

    return folder_of


@pytest.fixture(scope='session')
def every_epoch(jpeg_root, tmp_path_factory):
    """Folder of an uninterrupted run of the manual schedule, with a checkpoint of every epoch."""
    folder = tmp_path_factory.mktemp('epochs')
    run(micro_config(jpeg_root, folder))
    return folder
