# Copyright (c) the autoprog_mm authors. All rights reserved.
import json
import sys
from pathlib import Path

import cv2
import pytest

from tests.report_runs import write_run
from tests.test_tools import load_tool

ROOT = Path(__file__).parents[2]
# Stands in for tools/train.py.
SCRIPT = '''
import json, sys
json.dump(sys.argv, open('{argv}', 'w'))
print('2026/01/01 00:00:00 - mmengine - INFO - Stage 1 begins')
print('      3x16  loss 0.1234  0.01 GFLOPs  score 0.1234  <- chosen')
print('2026/01/01 00:00:00 - mmengine - INFO - Epoch(train) [1][6/6]')
print('a last word', file=sys.stderr)
sys.exit({status})
'''


@pytest.fixture(scope='module')
def demo():
    return load_tool(ROOT / 'tools' / 'demo.py')


def test_table_and_picture(demo, tmp_path, monkeypatch, capsys):
    trained = []

    def train(name, config, work_dir, seed):
        trained.append((name, (ROOT / config).is_file(), seed))
        write_run(Path(work_dir), 'baseline' if name == 'baseline' else 'grown')

    monkeypatch.setattr(demo, 'train', train)
    monkeypatch.setattr(sys, 'argv', ['demo.py', '--work-dir', str(tmp_path), '--seed', '3'])
    demo.main()
    assert trained == [('baseline', True, 3), ('autoprog', True, 3)]
    header, base, auto, _, picture, records = capsys.readouterr().out.strip().splitlines()
    assert header.split()[:2] == ['run', 'top-1']
    assert base.split() == ['baseline', '90.00%', '60.0', '1.00x', '4x32']
    assert auto.split() == ['autoprog', '90.00%', '30.0', '2.00x', '2x32', '4x32']
    assert all(Path(path).is_file() for path in records.removeprefix('Records: ').split(', '))
    image = cv2.imread(picture.removeprefix('Picture: '))
    assert image.shape[0] > 400 and image.shape[1] > 600
    assert image[0, 0].tolist() == [255] * 3 and image.std() > 10  # not blank


@pytest.mark.parametrize('status', [0, 1])
def test_train(status, demo, tmp_path, monkeypatch, capsys):
    argv = tmp_path / 'argv.json'
    (tmp_path / 'train.py').write_text(SCRIPT.format(argv=argv, status=status))
    monkeypatch.setattr(demo, 'HERE', str(tmp_path))
    if status == 0:
        demo.train('mine', 'my/config.py', 'my/folder', seed=5)
    else:
        with pytest.raises(SystemExit, match=r'(?s)\[1\]\[6/6\].*a last word.*mine failed'):
            demo.train('mine', 'my/config.py', 'my/folder', seed=5)
    assert capsys.readouterr().out.splitlines()[-3:] == [
        '=== mine: tools/train.py my/config.py, seed 5', 'Stage 1 begins',
        '      3x16  loss 0.1234  0.01 GFLOPs  score 0.1234  <- chosen']
    # As tools/train.py understands it.
    monkeypatch.setattr(sys, 'argv', json.loads(argv.read_text()))
    args = load_tool(ROOT / 'tools' / 'train.py').parse_args()
    assert args.config == str(tmp_path / '../my/config.py') and args.work_dir == 'my/folder'
    assert args.cfg_options == {'randomness.seed': 5}
