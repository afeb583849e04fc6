# Copyright (c) the autoprog_mm authors. All rights reserved.
import os
import subprocess

import pytest
from mmengine.config import Config
from mmengine.hooks import Hook

from autoprog_mm.engine.checkpoint import request_checkpoint
from autoprog_mm.engine.hooks import SafeCheckpointHook
from tests.test_engine.test_hooks.toy_runs import (  # noqa: F401
    Killed,
    assert_whole,
    build_fixture,
    checkpoints,
    load,
)

# ------------------------------------------------------------------ what is kept


@pytest.mark.parametrize('scores, best', [
    ([.1, .2, .3, .4, .5], 5),
    ([.9, .5, .5, .5, .9], 1),
])
def test_last_two_and_best_are_kept(build, tmp_path, scores, best):
    runner = build(scores, epochs=5)
    runner.train()
    name = f'best_accuracy_top1_epoch_{best}.pth'
    assert checkpoints(tmp_path) == [name, 'epoch_4.pth', 'epoch_5.pth']
    assert_whole(tmp_path, 4)
    assert_whole(tmp_path, 5)
    assert_whole(tmp_path, best, name)
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_5.pth')
    assert 'optimizer' in load(tmp_path / 'epoch_5.pth')
    assert runner.validated == [1, 2, 3, 4, 5]


@pytest.mark.parametrize('options, epochs', [
    (dict(max_keep_ckpts=3), [2, 3, 4]),
    (dict(max_keep_ckpts=1), [4]),
    (dict(max_keep_ckpts=-1), [1, 2, 3, 4]),
    (dict(interval=3), [3, 4]),
])
def test_options(build, tmp_path, options, epochs):
    build([.1] * 4, epochs=4, save_best=None, **options).train()
    assert checkpoints(tmp_path) == [f'epoch_{epoch}.pth' for epoch in epochs]


def test_best_of_several_metrics(build, tmp_path):
    scores = [dict(top1=1., top5=3.), dict(top1=2., top5=2.), dict(top1=3., top5=1.)]
    build(scores, save_best=['accuracy/top1', 'accuracy/top5']).train()
    assert checkpoints(tmp_path) == [
        'best_accuracy_top1_epoch_3.pth', 'best_accuracy_top5_epoch_1.pth', 'epoch_2.pth',
        'epoch_3.pth'
    ]


def test_config_is_formatted_once(build, tmp_path, monkeypatch):
    """Unless it is changed; and the text is that which mmengine alone would save."""
    texts = []
    formatted = Config.pretty_text.fget

    def counted(cfg):
        texts.append(formatted(cfg))
        return texts[-1]

    class Change(Hook):

        def before_train_epoch(self, runner):
            if runner.epoch == 0:
                texts.clear()  # of the log
            if runner.epoch == 2:
                runner.cfg.work_dir = 'changed'

    monkeypatch.setattr(Config, 'pretty_text', property(counted))
    runner = build((.1, .2, .3), max_keep_ckpts=3)
    runner.register_hook(Change())
    cfg = runner.cfg
    runner.train()
    assert runner.cfg is cfg and len(texts) == 2 and 'changed' in texts[1]
    saved = [load(tmp_path / f'epoch_{epoch}.pth')['meta']['cfg'] for epoch in (1, 2, 3)]
    assert saved == [texts[0], texts[0], texts[1]]
    assert load(tmp_path / 'best_accuracy_top1_epoch_3.pth')['meta']['cfg'] == texts[1]


def test_mistyped_argument():
    with pytest.raises(ValueError, match=r"unknown arguments \['max_keep_ckpt'\]; it takes .*"
                       "'max_keep_ckpts'"):
        SafeCheckpointHook(max_keep_ckpt=3)
    assert SafeCheckpointHook(save_begin=2).save_begin == 2


def test_validation_alone_saves_nothing(build, tmp_path):
    runner = build([.5])
    assert runner.val() == {'accuracy/top1': .5}
    assert checkpoints(tmp_path) == []


# ----------------------------------------------------------- what is in there


def test_plain_data_with_the_models_config(build, tmp_path):
    runner = build([.1, .2], epochs=2)
    runner.cfg.merge_from_dict(dict(model=dict(type='Toy', arch=(1, 2)), classes=['a']))
    runner.train()
    loaded = load(tmp_path / 'epoch_2.pth')
    assert loaded['model_config'] == dict(model=dict(type='Toy', arch=(1, 2)), classes=['a'])
    log = loaded['message_hub']['log_scalars']['train/loss']['log']
    assert log.tolist() == [1., 1.75, 0.625, 1.]


class RequestIn(Hook):
    """Asks for a checkpoint in the middle of an epoch, counted from 1, or at its end."""

    priority = 'LOW'

    def __init__(self, epoch, at_end=True):
        self.epoch, self.at_end = epoch, at_end

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.epoch + 1 == self.epoch and not self.at_end:
            request_checkpoint(runner)

    def after_train_epoch(self, runner):
        if runner.epoch + 1 == self.epoch and self.at_end:
            request_checkpoint(runner)


@pytest.mark.parametrize('at_end', [True, False])
def test_requested_checkpoint(build, tmp_path, at_end):
    """It is saved once, and knows of no request itself."""
    runner = build(epochs=5, save_best=None, interval=4, max_keep_ckpts=-1, val_interval=9)
    runner._val_loop = None
    runner.register_hook(RequestIn(2, at_end))
    runner.train()
    assert checkpoints(tmp_path) == ['epoch_2.pth', 'epoch_4.pth', 'epoch_5.pth']
    assert_whole(tmp_path, 2)
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_5.pth')
    for epoch in (2, 4):
        info = load(tmp_path / f'epoch_{epoch}.pth')['message_hub']['runtime_info']
        assert not [key for key in info if 'request' in key]


def test_requested_checkpoint_that_is_due_is_saved_once(build, tmp_path, monkeypatch):
    runner = build(epochs=2, save_best=None)
    runner._val_loop = None
    saved, save = [], runner.save_checkpoint
    monkeypatch.setattr(runner, 'save_checkpoint', lambda out_dir, name, *args, **kwargs: (
        saved.append(name), save(out_dir, name, *args, **kwargs)))
    runner.register_hook(RequestIn(2))
    runner.train()
    assert saved == ['epoch_1.pth', 'epoch_2.pth']


def test_stale_request_saves_nothing(build, tmp_path):
    """As of a hook that asks too late, or of another run with the same message hub."""
    runner = build(epochs=4, save_best=None, interval=4)
    runner._val_loop = None
    hook = RequestIn(1)
    runner.register_hook(hook, 'LOWEST')
    runner.train()
    assert checkpoints(tmp_path) == ['epoch_4.pth']


# -------------------------------------------------------------------- crashes


def test_old_is_deleted_after_new_is_whole(build, tmp_path, monkeypatch):
    runner = build(epochs=5, save_best=None, max_keep_ckpts=2)
    runner._val_loop = None
    save = runner.save_checkpoint
    seen = []

    def save_two(out_dir, filename, *args, **kwargs):
        seen.append(checkpoints(tmp_path))
        if filename == 'epoch_3.pth':
            raise Killed('during the third save')
        save(out_dir, filename, *args, **kwargs)

    monkeypatch.setattr(runner, 'save_checkpoint', save_two)
    with pytest.raises(Killed, match='third save'):
        runner.train()
    assert seen == [[], ['epoch_1.pth'], ['epoch_1.pth', 'epoch_2.pth']]
    assert checkpoints(tmp_path) == ['epoch_1.pth', 'epoch_2.pth']
    assert_whole(tmp_path, 1)
    assert_whole(tmp_path, 2)
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_2.pth')

    resumed = build(epochs=5, save_best=None, resume=True)
    resumed._val_loop = None
    resumed.train()
    assert checkpoints(tmp_path) == ['epoch_4.pth', 'epoch_5.pth']
    assert_whole(tmp_path, 5)


def test_old_best_is_deleted_after_new_is_whole(build, tmp_path, monkeypatch):
    runner = build([.1, .2])
    save = runner.save_checkpoint

    def save_one(out_dir, filename, *args, **kwargs):
        if filename == 'best_accuracy_top1_epoch_2.pth':
            raise Killed('during the second best')
        save(out_dir, filename, *args, **kwargs)

    monkeypatch.setattr(runner, 'save_checkpoint', save_one)
    with pytest.raises(Killed, match='second best'):
        runner.train()
    assert checkpoints(tmp_path) == [
        'best_accuracy_top1_epoch_1.pth', 'epoch_1.pth', 'epoch_2.pth']
    assert_whole(tmp_path, 1, 'best_accuracy_top1_epoch_1.pth')

    build([.2, .1], resume=True).train()
    assert checkpoints(tmp_path) == [
        'best_accuracy_top1_epoch_2.pth', 'epoch_2.pth', 'epoch_3.pth']


def test_files_are_written_beside_and_renamed(build, tmp_path, monkeypatch):
    renamed = []
    replace = os.replace

    def spy(source, target):
        renamed.append(os.path.basename(str(target)))
        assert str(source) != str(target) and os.path.getsize(source) > 0
        replace(source, target)

    monkeypatch.setattr(os, 'replace', spy)
    build([.1, .2], epochs=2).train()
    assert not [name for name in os.listdir(tmp_path) if name.endswith('.tmp')]
    # The last checkpoint is written again to know of the best one.
    first = ['epoch_1.pth', 'last_checkpoint', 'best_accuracy_top1_epoch_1.pth', 'epoch_1.pth',
             'last_checkpoint']
    assert renamed == first + [name.replace('1.pth', '2.pth') for name in first]


def test_crash_while_writing_leaves_the_old_file(build, tmp_path, monkeypatch):
    build([.1], epochs=1, save_best=None).train()
    before = (tmp_path / 'epoch_1.pth').read_bytes()

    def killed(descriptor):
        raise Killed('before the bytes are on the disk')

    monkeypatch.setattr(os, 'fsync', killed)
    with pytest.raises(Killed):
        build([.1], epochs=1, save_best=None).train()
    assert (tmp_path / 'epoch_1.pth').read_bytes() == before
    assert_whole(tmp_path, 1)
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_1.pth')


# -------------------------------------------------------------------- no room


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 2 MB of its own."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    done = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', str(folder)],
                          stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        pytest.skip(f'cannot mount a small disk: {done.stderr.strip()}')
    yield folder
    subprocess.run(['umount', '-l', str(folder)], check=True)


class FillDisk(Hook):
    """Leaves too little room for the checkpoint of an epoch."""

    def __init__(self, folder, epoch):
        self.folder, self.epoch = folder, epoch

    def after_train_epoch(self, runner):
        if runner.epoch + 1 == self.epoch:
            with open(self.folder / 'filler', 'wb', buffering=0) as file, \
                    pytest.raises(OSError, match='No space'):
                while True:
                    file.write(bytes(1 << 16))


def test_full_disk(build, small_disk):
    runner = build([.1] * 3, save_best=None, folder=small_disk)
    runner.register_hook(FillDisk(small_disk, 2))
    with pytest.raises(RuntimeError, match='cannot be written .No space left on device') as error:
        runner.train()
    assert str(small_disk / 'epoch_1.pth') in str(error.value)
    assert '--resume' in str(error.value)
    assert checkpoints(small_disk) == ['epoch_1.pth']
    assert_whole(small_disk, 1)

    (small_disk / 'filler').unlink()
    runner = build([.1] * 3, save_best=None, resume=True, folder=small_disk)
    runner.train()
    assert runner.validated == [1, 2, 3]
    assert_whole(small_disk, 3)
