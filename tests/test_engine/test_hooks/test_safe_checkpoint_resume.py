# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Which checkpoint a run goes on from, and what it does first."""
import os
import pickle

import pytest
import torch
from mmengine.logging import MMLogger

from autoprog_mm.engine.hooks import SafeCheckpointHook
from tests.test_engine.test_hooks.toy_runs import (  # noqa: F401
    Killed,
    assert_whole,
    build_fixture,
    checkpoints,
    weight,
)

# --------------------------------------------------------------------- resume


def test_validation_cut_off_is_done_on_resume(build, tmp_path):
    with pytest.raises(Killed, match='during validation'):
        build([.1, None]).train()
    assert checkpoints(tmp_path) == [
        'best_accuracy_top1_epoch_1.pth', 'epoch_1.pth', 'epoch_2.pth']

    runner = build([.9, .5], resume=True)
    runner.train()
    assert runner.validated == [2, 3]
    assert checkpoints(tmp_path) == [
        'best_accuracy_top1_epoch_2.pth', 'epoch_2.pth', 'epoch_3.pth']
    assert_whole(tmp_path, 2, 'best_accuracy_top1_epoch_2.pth')
    assert_whole(tmp_path, 3)
    assert runner.message_hub.get_info('best_score') == .9


@pytest.mark.parametrize('val_interval, scores', [(1, [.1, .2, None]), (2, [.1, None])])
def test_last_validation_cut_off_is_done_on_resume(build, tmp_path, val_interval, scores):
    with pytest.raises(Killed):
        build(scores, val_interval=val_interval).train()
    runner = build([.9], val_interval=val_interval, resume=True)
    runner.train()
    assert runner.validated == [3]
    assert 'best_accuracy_top1_epoch_3.pth' in checkpoints(tmp_path)
    assert torch.equal(runner.model.weight.data, weight(3))


def kill_in_epoch(runner, epoch):
    """Let a run end with the first training step of an epoch, counted from 1."""
    step = runner.model.train_step

    def train_step(*args, **kwargs):
        if runner.epoch == epoch - 1:
            raise Killed('during training')
        return step(*args, **kwargs)

    runner.model.train_step = train_step


def test_validation_that_was_done_is_not_done_again(build):
    first = build([.1, .2])
    kill_in_epoch(first, 3)
    with pytest.raises(Killed, match='during training'):
        first.train()
    assert first.validated == [1, 2]
    runner = build([.3], resume=True)
    runner.train()
    assert runner.validated == [3]


@pytest.mark.parametrize('val_interval, killed_in, validated', [
    (2, 2, [2, 4, 5]),
    (2, 4, [4, 5]),
    (5, 5, [5]),
])
def test_validation_that_was_not_due_is_not_done(build, val_interval, killed_in, validated):
    first = build([.1], epochs=5, val_interval=val_interval)
    kill_in_epoch(first, killed_in)
    with pytest.raises(Killed, match='during training'):
        first.train()
    runner = build([.2, .3, .4], epochs=5, val_interval=val_interval, resume=True)
    runner.train()
    assert runner.validated == validated


def test_fresh_run_begins_with_training(build):
    runner = build([.1], epochs=1)
    runner.train()
    assert runner.validated == [1]


def test_best_and_kept_go_on_after_resume(build, tmp_path):
    with pytest.raises(Killed):
        build([.9, .5, None], epochs=5).train()
    build([.4, .3, .2], epochs=5, resume=True).train()
    assert checkpoints(tmp_path) == [
        'best_accuracy_top1_epoch_1.pth', 'epoch_4.pth', 'epoch_5.pth']


# ------------------------------------------------------------- which is taken


@pytest.fixture
def log(monkeypatch):
    messages = []
    monkeypatch.setattr(MMLogger, 'warning', lambda self, text, *args: messages.append(text))
    return messages


def spoil(path, how):
    content = path.read_bytes()
    if how == 'truncated':
        content = content[:len(content) // 2]
    elif how == 'code':
        content = pickle.dumps(Trap(str(path.parent / 'trapped')))
    path.write_bytes(b'' if how == 'empty' else content)


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, 'w')


@pytest.mark.parametrize('how', ['empty', 'truncated', 'code'])
def test_broken_checkpoint_is_passed_over(build, tmp_path, log, how):
    build([.1, .2, .1]).train()
    spoil(tmp_path / 'epoch_3.pth', how)
    runner = build([.2], resume=True)
    runner.train()
    assert runner.validated == [3]  # of epoch 2 the result is known
    assert_whole(tmp_path, 3)
    assert not (tmp_path / 'trapped').exists()
    text, = [text for text in log if 'Passed over a checkpoint' in text]
    assert 'epoch_3.pth' in text and 'not whole' in text


def test_broken_checkpoint_that_is_asked_for(build, tmp_path):
    build([.1] * 3).train()
    spoil(tmp_path / 'epoch_2.pth', 'truncated')
    runner = build(resume=True)
    runner._load_from = str(tmp_path / 'epoch_2.pth')
    with pytest.raises(ValueError, match=r"Cannot resume: .*epoch_2\.pth' is not whole"):
        runner.train()


def test_best_checkpoint_that_is_asked_for(build, tmp_path):
    build([.1] * 3).train()
    runner = build(resume=True)
    runner._load_from = str(tmp_path / 'best_accuracy_top1_epoch_1.pth')
    with pytest.raises(ValueError, match='Cannot resume: .*holds weights, as best checkpoints do'):
        runner.train()


def test_none_is_whole(build, tmp_path):
    build([.1] * 3, max_keep_ckpts=1).train()
    spoil(tmp_path / 'epoch_3.pth', 'empty')
    with pytest.raises(ValueError, match='none of the checkpoints in .* is whole.*epoch_3.pth'):
        build(resume=True).train()


def test_nothing_to_resume_from(build, tmp_path, log):
    runner = build([.1] * 3, resume=True)
    runner.train()
    assert runner.validated == [1, 2, 3]
    assert any('no checkpoint' in text and 'starts anew' in text for text in log)


def test_last_checkpoint_file_is_not_needed(build, tmp_path):
    build([.1, .2], epochs=2).train()
    (tmp_path / 'last_checkpoint').write_text('nowhere.pth')
    runner = build([.1], resume=True)
    runner.train()
    assert runner.validated == [3]


def test_any_template_is_found_again(build, tmp_path):
    build([.1, .2], epochs=2, filename_tmpl='net_{:03d}.pth').train()
    assert 'net_002.pth' in checkpoints(tmp_path)
    runner = build([.1], resume=True, filename_tmpl='net_{:03d}.pth')
    runner.train()
    assert runner.validated == [3]


def test_kill_before_the_surplus_is_removed(build, tmp_path, monkeypatch):
    runner = build(epochs=4, save_best=None, max_keep_ckpts=1, val_interval=9)
    hook = next(h for h in runner.hooks if isinstance(h, SafeCheckpointHook))

    def killed(path):
        raise Killed('before the removal')

    monkeypatch.setattr(hook, '_remove', killed)
    with pytest.raises(Killed):
        runner.train()
    assert checkpoints(tmp_path) == ['epoch_1.pth', 'epoch_2.pth']
    build([.1], epochs=4, save_best=None, max_keep_ckpts=1, val_interval=9, resume=True).train()
    assert checkpoints(tmp_path) == ['epoch_4.pth']


def test_nothing_to_resume_by_design(build):
    with pytest.raises(ValueError, match='save_optimizer=False.*resumed from'):
        build(save_optimizer=False, resume=True).train()


def test_remains_of_a_kill_are_removed(build, tmp_path):
    (tmp_path / 'epoch_7.pth.123.tmp').write_bytes(b'half')
    build([.1], epochs=1, save_best=None).train()
    assert sorted(name for name in os.listdir(tmp_path) if 'pth' in name) == ['epoch_1.pth']


def test_the_best_checkpoint_of_another_work_directory_stays(build, tmp_path):
    """A run that goes on there from a checkpoint of this one knows its path."""
    first, second = tmp_path / 'first', tmp_path / 'second'
    build([.5], 1, folder=first).train()
    runner = build([.6, .7], 2, resume=True, folder=second)
    runner._load_from = str(first / 'epoch_1.pth')
    runner.train()
    assert checkpoints(first) == ['best_accuracy_top1_epoch_1.pth', 'epoch_1.pth']
    assert checkpoints(second) == ['best_accuracy_top1_epoch_2.pth', 'epoch_2.pth']


def test_the_best_checkpoint_of_a_moved_work_directory_is_replaced(build, tmp_path):
    build([.5], 1, folder=tmp_path / 'old').train()
    (tmp_path / 'old').rename(tmp_path / 'new')
    build([.6], 2, resume=True, folder=tmp_path / 'new').train()
    assert checkpoints(tmp_path / 'new') == [
        'best_accuracy_top1_epoch_2.pth', 'epoch_1.pth', 'epoch_2.pth']
