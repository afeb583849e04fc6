# Copyright (c) the autoprog_mm authors. All rights reserved.
from pathlib import Path

import cv2
import pytest

from tests.micro import micro_config, read_record, run
from tests.test_tools import load_tool

TOOL = Path(__file__).parents[2] / 'tools' / 'demo.py'


@pytest.fixture(scope='module')
def demo():
    return load_tool(TOOL)


def test_table_and_picture_of_real_runs(demo, jpeg_root, tmp_path, capsys):
    runs = {}
    for name, num_stages in (('baseline', 1), ('autoprog', 4)):
        work_dir = tmp_path / name
        cfg = micro_config(jpeg_root, work_dir)
        cfg.custom_hooks[0].num_stages = num_stages
        run(cfg)
        runs[name] = dict(
            record=read_record(work_dir), validations=demo.read_validations(str(work_dir)))
        # One validation an epoch, in order, training time never going back.
        epochs, seconds, accuracy = zip(*runs[name]['validations'])
        assert epochs == tuple(range(1, 9))
        assert list(seconds) == sorted(seconds)
        assert all(0 <= value <= 100 for value in accuracy)
    capsys.readouterr()
    # With times put in by hand the table can be checked.
    runs['baseline']['record']['train_seconds'] = 30.
    runs['autoprog']['record']['train_seconds'] = 12.
    demo.print_table(runs)
    header, base, auto = capsys.readouterr().out.strip().splitlines()
    assert header.split()[:2] == ['run', 'top-1']
    assert '30.0' in base and '1.00x' in base and base.endswith('4x32')
    assert '12.0' in auto and '2.50x' in auto and auto.endswith('2x16  3x24  3x24  4x32')
    assert f'{runs["autoprog"]["validations"][-1][2]:.2f}%' in auto

    picture = tmp_path / 'demo.png'
    demo.draw(runs, str(picture))
    image = cv2.imread(str(picture))
    assert image.shape[0] > 400 and image.shape[1] > 600
    assert image.std() > 10  # not blank


def test_a_failed_run_stops_the_demo(demo, tmp_path):
    with pytest.raises(SystemExit, match='missing failed'):
        demo.train('missing', 'configs/none.py', str(tmp_path), seed=0)
