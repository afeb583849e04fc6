# Copyright (c) the autoprog_mm authors. All rights reserved.
import autoprog_mm  # noqa: F401  isort: skip  (before anything that imports torchvision)

import gc
import signal
from pathlib import Path

import cv2
import mmengine
import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

torch.set_num_threads(1)  # the suite's models are too small for more

# A shell that starts a command in the background has it ignore Ctrl-C, and all
# that it starts, too; but some tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

NUM_CLASSES = 4


@pytest.fixture(scope='session', autouse=True)
def cheap_runners():
    """Spare each Runner, also in forks, some seconds of what no test is about."""
    with pytest.MonkeyPatch.context() as patch:
        # It asks compilers and git for versions.
        patch.setattr(Runner, '_log_env', lambda *args: None)
        for module in (mmengine.hooks.runtime_info_hook, mmengine.runner.runner):
            patch.setattr(module, 'get_git_hash', lambda: '')
        # The layout of the config's text, which is written into files and checkpoints.
        patch.setattr(mmengine.config.config, 'FormatCode', lambda text, **_: (text, True))
        # Each dataset collects garbage, and would look through all that is imported.
        gc.collect()
        gc.freeze()
        yield
        gc.unfreeze()


@pytest.fixture(autouse=True)
def own_scope():
    """A Runner's default scope must not outlive its test."""
    before = dict(DefaultScope._instance_dict)
    yield
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(before)


@pytest.fixture(scope='session')
def jpeg_root(tmp_path_factory) -> Path:
    """A folder of real JPEG files in ImageNet's layout: 48 to train, 16 to validate."""
    root = tmp_path_factory.mktemp('jpegs')
    rng = np.random.RandomState(0)
    for split, per_class in (('train', 12), ('val', 4)):
        lines = []
        for label in range(NUM_CLASSES):
            folder = root / split / f'class_{label}'
            folder.mkdir(parents=True)
            for i in range(per_class):
                height, width = rng.randint(40, 72, 2)
                image = rng.randint(0, 80, (height, width, 3))
                image[..., label % 3] += 60 + 50 * (label // 3)
                image[:: 4 + 4 * label] += 70
                cv2.imwrite(str(folder / f'{i}.jpg'), image.clip(0, 255).astype(np.uint8))
                lines.append(f'class_{label}/{i}.jpg {label}')
        (root / 'meta').mkdir(exist_ok=True)
        # With it, mmpretrain's ImageNet does not insist on 1,000 folders.
        (root / 'meta' / f'{split}.txt').write_text('\n'.join(lines) + '\n')
    return root
