# Copyright (c) the autoprog_mm authors. All rights reserved.
import itertools
import os
import pickle
import subprocess

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import Dataset

from autoprog_mm.engine.checkpoint import pack, unpack
from autoprog_mm.engine.hooks import SafeCheckpointHook

RUN_NUMBERS = itertools.count()


class Killed(Exception):  # noqa: N818
    """Stands for a kill."""


class ToyDataset(Dataset):

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return torch.full((1, ), float(index + 1))


class ToyModel(BaseModel):

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, inputs, mode='tensor'):
        return dict(loss=(self.weight * inputs).sum()) if mode == 'loss' else [inputs]


class ScriptedMetric(BaseMetric):
    """Gives one of the scores after the other; a score of None is a kill."""

    default_prefix = 'accuracy'

    def __init__(self, scores):
        super().__init__()
        self.scores = iter(scores)

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        score = next(self.scores)
        if score is None:
            raise Killed('during validation')
        return score if isinstance(score, dict) else dict(top1=score)


class PlainCheckpointHook(Hook):
    """Makes checkpoints loadable, and notes which epochs were validated."""

    def __init__(self):
        self.validated = []

    def before_save_checkpoint(self, runner, checkpoint):
        pack(checkpoint)

    def after_load_checkpoint(self, runner, checkpoint):
        unpack(checkpoint)

    def after_val_epoch(self, runner, metrics=None):
        self.validated.append(runner.epoch)


@pytest.fixture
def build(tmp_path, monkeypatch):
    # Takes a second, to print what nobody reads.
    monkeypatch.setattr(Runner, '_log_env', lambda *args: None)

    def build_runner(
            scores=(), epochs=3, resume=False, val_interval=1, folder=tmp_path, **hook):
        loader = dict(
            batch_size=1, dataset=ToyDataset(), sampler=dict(type='DefaultSampler', shuffle=False))
        plain = PlainCheckpointHook()
        runner = Runner(
            model=ToyModel(),
            # One that is shared would give a run the other's message hub.
            experiment_name=f'toy_{os.getpid()}_{next(RUN_NUMBERS)}',
            work_dir=str(folder),
            train_dataloader=loader,
            train_cfg=dict(by_epoch=True, max_epochs=epochs, val_interval=val_interval),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.125)),
            val_dataloader=dict(loader),
            val_cfg=dict(),
            val_evaluator=Evaluator([ScriptedMetric(scores)]),
            default_hooks=dict(checkpoint=SafeCheckpointHook(**hook)),
            custom_hooks=[plain],
            resume=resume,
            randomness=dict(seed=0),
            log_level='ERROR',
            default_scope='mmengine')
        runner.validated = plain.validated
        return runner

    return build_runner


def checkpoints(folder):
    return sorted(name for name in os.listdir(folder) if '.pth' in name)


def load(path):
    return torch.load(path, weights_only=True)


def weight(epoch):
    """Each epoch takes 0.125 * (1 + 2) away from 1."""
    return torch.tensor([1 - 0.375 * epoch])


def assert_whole(folder, epoch, name=None):
    checkpoint = load(folder / (name or f'epoch_{epoch}.pth'))
    assert checkpoint['meta']['epoch'] == epoch
    assert torch.equal(checkpoint['state_dict']['weight'], weight(epoch))


# ------------------------------------------------------------------ what is kept


@pytest.mark.parametrize('scores, best', [
    ([.1, .9, .5, .4, .3], 2),
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
    (3, 2, [3, 5]),
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
    (tmp_path / 'epoch_7.pth.tmp').write_bytes(b'half')
    build([.1], epochs=1, save_best=None).train()
    assert sorted(name for name in os.listdir(tmp_path) if 'pth' in name) == ['epoch_1.pth']


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
