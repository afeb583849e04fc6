# Copyright (c) the autoprog_mm authors. All rights reserved.
"""The folder of a run: the names of what is in it, and how it is made."""
import json
import os
import os.path as osp

from mmengine.config import Config
from mmengine.fileio import load
from suite import fingerprint

from autoprog_mm.utils import UserError, write_atomically

RESULT = 'result.json'
STARTED = 'started.json'
CONFIG = osp.join('given', 'config.py')  # beside it would be the one that mmengine dumps
LOG = 'log.txt'


def make_folder(folder: str, cfg: Config) -> bool:
    """Make a run's folder, with its config.

    Args:
        folder (str): The folder, which may be there from an earlier start.
        cfg (Config): The run's config.

    Returns:
        bool: Whether the run is still to be trained.

    Raises:
        UserError: If the folder has a run or a result of another config.
    """
    result = osp.join(folder, RESULT)
    if osp.exists(result):
        if load(result)['config'] != fingerprint(cfg):
            raise UserError(f'--work-dir: {folder} has a result of another config. Delete that '
                            'folder, or choose another --work-dir.')
        return False
    path, text = osp.join(folder, CONFIG), cfg.pretty_text
    os.makedirs(osp.dirname(path), exist_ok=True)
    if osp.exists(path):
        with open(path, encoding='utf-8') as file:
            if file.read() != text:
                raise UserError(f'--work-dir: {folder} has a run with another config. Delete that '
                                'folder, or choose another --work-dir.')
    write_atomically(path, text)
    write_atomically(osp.join(folder, STARTED), json.dumps(dict(config=fingerprint(cfg))))
    return True
