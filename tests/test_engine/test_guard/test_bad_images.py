# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Validations and tests of images that can't be read; of those to train with, see the hook's."""
import io
import shutil

import cv2
import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from PIL import Image

from tests.micro import close, micro_config, run


def float_tiff():
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((40, 40), np.float32)).save(buffer, 'TIFF')
    return buffer.getvalue()


NOISE = np.random.RandomState(0).randint(0, 256, (64, 64, 3), np.uint8)
JPEG, PNG = (cv2.imencode(ending, NOISE)[1].tobytes() for ending in ('.jpg', '.png'))
SPOILED = {
    'class_0/1.jpg': JPEG[:len(JPEG) // 2],
    'class_1/0.jpg': PNG[:len(PNG) // 2],
    'class_1/2.jpg': float_tiff(),
    'class_3/3.jpg': b'',
}
BLACK = cv2.imencode('.png', np.zeros((9, 9, 3), np.uint8))[1].tobytes()


class Predictions(Hook):

    def before_run(self, runner):
        self.scores = []

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.scores += [sample.pred_score for sample in outputs]

    after_test_iter = after_val_iter


def look_at(root, work_dir, kind, workers=0, **options):
    """Predictions and accuracy of an untrained network, and what the log says."""
    cfg = micro_config(root, work_dir, workers=workers, **options)
    cfg.test_dataloader, cfg.test_cfg, cfg.test_evaluator = (
        cfg.val_dataloader, dict(), cfg.val_evaluator)
    runner, hook = Runner.from_cfg(cfg), Predictions()
    runner.register_hook(hook)
    try:
        metrics = getattr(runner, kind)()
    finally:
        close(runner)
    return torch.stack(hook.scores), metrics, max(work_dir.glob('*/*.log')).read_text()


@pytest.fixture(scope='module')
def roots(jpeg_root, tmp_path_factory):
    """Images of which some can't be read, and the same with black ones in their place."""
    bad, black = (tmp_path_factory.mktemp(name) / 'root' for name in ('bad', 'black'))
    for root in (bad, black):
        shutil.copytree(jpeg_root, root)
    for name, content in SPOILED.items():
        (bad / 'val' / name).write_bytes(content)
        (black / 'val' / name).write_bytes(BLACK)
    (bad / 'val' / 'class_2' / '1.jpg').unlink()
    (black / 'val' / 'class_2' / '1.jpg').write_bytes(BLACK)
    return bad, black


@pytest.mark.parametrize('kind, workers', [('val', 0), ('test', 2)])
def test_black_ones_are_seen_and_told(roots, tmp_path, kind, workers):
    bad, black = roots
    scores, metrics, text = look_at(bad, tmp_path / 'bad', kind, workers)
    expected_scores, expected, quiet = look_at(black, tmp_path / 'black', kind)
    assert len(scores) == 16 and torch.equal(scores, expected_scores)
    assert metrics == expected
    when = 'the validation of epoch 0' if kind == 'val' else 'the test'
    assert (f'In {when}, 5 of 16 images could not be read. The network saw black images in their '
            'place, so its accuracy may be off by up to 31.25 points:\n') in text
    for name in (*SPOILED, 'class_2/1.jpg'):
        assert repr(str(bad / 'val' / name)) in text
    assert text.index('accuracy/top1') < text.index('5 of 16')
    assert 'could not be read' not in quiet


def test_each_validation_tells(roots, tmp_path):
    """mmengine drops a warning that it has shown before."""
    run(micro_config(roots[0], tmp_path, train_cfg__max_epochs=2, custom_hooks__0__num_stages=1))
    text = max(tmp_path.glob('*/*.log')).read_text()
    assert [text.count(f'In the validation of epoch {i}, 5 of 16 images') for i in (1, 2)] == [1, 1]


def test_too_many(roots, tmp_path):
    with pytest.raises(RuntimeError, match=r'^5 images could not be read, .*_images \(4\)'):
        look_at(roots[0], tmp_path, 'val', default_hooks__guard__max_bad_images=4)


def test_views_of_test_time_augmentation(roots, tmp_path):
    flips = [dict(type='RandomFlip', prob=1.), dict(type='RandomFlip', prob=0.)]
    pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(32, 32)),
                dict(type='TestTimeAug', transforms=[flips, [dict(type='PackInputs')]])]
    cfg = micro_config(roots[0], tmp_path)
    _, _, text = look_at(
        roots[0], tmp_path, 'test', val_dataloader__dataset__pipeline=pipeline,
        val_dataloader__collate_fn=dict(type='pseudo_collate'),
        model=dict(_delete_=True, type='AverageClsScoreTTA', module=cfg.model))
    assert '5 of 16 images could not be read.' in text
