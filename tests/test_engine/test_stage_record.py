# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What record, report and log say of a run that a hook has stopped before its last epoch."""
import pytest
from mmengine.hooks import Hook

from autoprog_mm.record.reading import read_run
from autoprog_mm.report import build_page
from tests.micro import micro_config, read_record, resume, run
from tests.test_engine.resuming import run_until, without_clocks


class StopAt(Hook):
    """Any hook may end a run."""

    def __init__(self, epoch):
        self.epoch = epoch

    def after_train_epoch(self, runner):
        runner.train_loop.stop_training = runner.epoch + 1 == self.epoch


def log_of(folder):
    return '\n'.join(path.read_text() for path in sorted(folder.glob('*/*.log')))


@pytest.mark.parametrize('epoch', [3, 8])
def test_stopped_by_a_hook(jpeg_root, tmp_path, epoch):
    """In the second stage, and after the last epoch, which is no early stop."""
    run(micro_config(jpeg_root, tmp_path, default_hooks__checkpoint=None), StopAt(epoch))
    record, early = read_record(tmp_path), epoch < 8
    assert record['finished'] is not early
    assert record['stopped_after'] == (3 if early else None)
    assert record['stages'][-1]['end_epoch'] == epoch
    assert record['stages'][0]['end_epoch'] == 2
    read = read_run(str(tmp_path))
    assert (read.epochs, read.epochs_done) == (8, epoch)
    assert ('Stopped early, after 3 epochs of 8' in build_page(read)) is early
    said = ('stopped early, after 3 of 8 epochs: a hook, such as EarlyStoppingHook, has set '
            'stop_training. 3x24 of 4x32 (depth x pixels) was awake.')
    assert (said in log_of(tmp_path)) is early


def impatient(jpeg_root, folder):
    """Each validation after the first is one too many, and three are two."""
    cfg = micro_config(jpeg_root, folder)
    cfg.custom_hooks.append(dict(
        type='EarlyStoppingHook', monitor='accuracy/top1', min_delta=100., patience=2))
    return cfg


@pytest.fixture(scope='module')
def stopped(jpeg_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp('stopped')
    run(impatient(jpeg_root, folder))
    return folder


@pytest.mark.parametrize('epoch', [1, 2, 3])
def test_a_resumed_run_stops_where_the_other_did(stopped, jpeg_root, tmp_path, epoch):
    """Patience counts validations before the resume, and those that the kill has cut off."""
    assert read_record(stopped)['stopped_after'] == 3
    runner = resume(impatient(jpeg_root, tmp_path), stopped / f'epoch_{epoch}.pth')
    assert runner.epoch == 3
    assert without_clocks(read_record(tmp_path)) == without_clocks(read_record(stopped))


def test_with_more_patience_it_goes_on(stopped, jpeg_root, tmp_path):
    cfg = impatient(jpeg_root, tmp_path)
    cfg.custom_hooks[-1].update(patience=9)
    cfg.resume, cfg.load_from = True, str(stopped / 'epoch_3.pth')
    run_until(cfg, 4 * 6)
    record = read_record(tmp_path)
    assert (record['finished'], record['stopped_after']) == (False, None)
    assert [stage['end_epoch'] for stage in record['stages']] == [2, 4, 6]
