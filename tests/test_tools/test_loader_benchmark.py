# Copyright (c) the autoprog_mm authors. All rights reserved.
"""tools/benchmarks/loader.py; how fast it is, no test can say."""
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope

from tests.test_tools import load_tool

ROOT = Path(__file__).parents[2]


@pytest.fixture
def call(monkeypatch, capsys):
    tool = load_tool(ROOT / 'tools' / 'benchmarks' / 'loader.py')
    monkeypatch.chdir(ROOT)
    threads = torch.get_num_threads(), cv2.getNumThreads()

    def call(*args):
        monkeypatch.setattr(sys, 'argv', ['loader.py', *map(str, args)])
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            tool.main()
        return capsys.readouterr().out

    yield call
    torch.set_num_threads(threads[0])
    cv2.setNumThreads(threads[1])


@pytest.fixture
def folder(tmp_path):
    for number in range(3):
        path = tmp_path / 'images' / f'class_{number % 2}' / f'{number}.JPEG'
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = np.random.RandomState(number).randint(0, 256, (4, 5, 3)).astype(np.uint8)
        cv2.imwrite(str(path.with_suffix('.jpg')), cv2.resize(coarse, (400, 300)))
        path.with_suffix('.jpg').rename(path)
    return tmp_path / 'images'


def test_figures(call, folder, tmp_path):
    out = tmp_path / 'out.json'
    output = call('--images', folder, '--prepared', folder, '--rounds', 2,
                  '--resolutions', 96, 224, '--out', out)
    assert '3 images, images/s of one core, medians of 2 rounds' in output
    figures = json.loads(out.read_text())
    assert figures['images'] == 3 and figures['rounds'] == 2
    for row, resolution in zip(figures['resolutions'], (96, 224)):
        assert row['resolution'] == resolution
        for ending in ('', '_crop', '_prepared', '_prepared_crop'):
            assert row[f'stock{ending}'] > 0 and row[f'ours{ending}'] > 0
        assert row['ours/stock'] > 0 and row['ours_prepared/stock'] > 0
        assert 30 < row['psnr_min'] <= row['psnr_mean'] <= 60


def test_errors(call, folder, tmp_path):
    with pytest.raises(ValueError, match='--images: there is no folder'):
        call('--images', tmp_path / 'none')
    (tmp_path / 'other').mkdir()
    with pytest.raises(ValueError, match='--images: there are no images in'):
        call('--images', tmp_path / 'other')
    with pytest.raises(ValueError, match='--prepared: there is no .*0.JPEG'):
        call('--images', folder, '--prepared', tmp_path / 'other')
    with pytest.raises(ValueError, match='must begin with ProgressiveDecodeCrop, but begins with'):
        call('--images', folder, '--config', 'configs/_base_/datasets/mnist5k_progressive.py')
    with pytest.raises(SystemExit):
        call('--images', folder, '--rounds', 0)
