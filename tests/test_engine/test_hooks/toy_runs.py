# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Runs of one weight and two steps an epoch, validated by given scores."""
import itertools
import os

import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import Dataset

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


class NoteValidated(Hook):
    """Notes which epochs were validated."""

    def __init__(self):
        self.validated = []

    def after_val_epoch(self, runner, metrics=None):
        self.validated.append(runner.epoch)


@pytest.fixture(name='build')
def build_fixture(tmp_path, monkeypatch):
    # Takes a second, to print what nobody reads.
    monkeypatch.setattr(Runner, '_log_env', lambda *args: None)

    def build_runner(
            scores=(), epochs=3, resume=False, val_interval=1, folder=tmp_path, **hook):
        loader = dict(
            batch_size=1, dataset=ToyDataset(), sampler=dict(type='DefaultSampler', shuffle=False))
        noting = NoteValidated()
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
            custom_hooks=[noting],
            resume=resume,
            randomness=dict(seed=0),
            log_level='ERROR',
            default_scope='mmengine')
        runner.validated = noting.validated
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
