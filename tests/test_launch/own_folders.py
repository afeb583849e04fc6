# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Folders of a user's own images, and configs for them as a tool prepares them."""
import argparse
import copy
import functools
from pathlib import Path

import cv2
import numpy as np
from mmengine.config import Config

from autoprog_mm.launch import prepare_config

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs' / 'autoprog' / 'deit-t_custom.py'


def write_images(root, folders, count=10, size=(30, 40)):
    for folder in folders:
        (root / folder).mkdir(parents=True)
        for i in range(count):
            cv2.imwrite(str(root / folder / f'{i}.png'), np.full((*size, 3), 9 * i, np.uint8))
    return str(root)


@functools.lru_cache
def read_once(path):
    return Config.fromfile(path)


def read(path):
    return copy.deepcopy(read_once(path))


def prepare(cfg, work_dir, launcher='none', **options):
    return prepare_config(
        read(cfg) if isinstance(cfg, Path) else cfg,
        argparse.Namespace(
            config=str(CONFIG), work_dir=str(work_dir), launcher=launcher, resume=None, amp=False,
            no_validate=False, auto_scale_lr=False, no_pin_memory=True,
            no_persistent_workers=True,
            cfg_options={key.replace('__', '.'): value for key, value in options.items()}))
