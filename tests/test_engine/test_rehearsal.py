# Copyright (c) the autoprog_mm authors. All rights reserved.
"""A validation is rehearsed; mistakes that it finds are in test_autoprog_mistakes.py."""
from contextlib import nullcontext

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.runner import Runner

from autoprog_mm.engine.rehearsal import rehearse_test, rehearse_validation
from autoprog_mm.utils import UserError
from tests.micro import micro_config
from tests.test_engine.short_runs import run_until

F1 = dict(type='SingleLabelMetric', items=('f1-score', ))


@pytest.mark.parametrize('evaluator, best', [
    (F1, 'best_single-label_f1-score_epoch_1.pth'),
    (dict(F1, items=('recall', )), 'best_single-label_recall_epoch_1.pth'),
    (dict(type='Accuracy', prefix='val'), 'best_val_top1_epoch_1.pth'),
    ([dict(type='Accuracy', topk=(1, 2)), dict(type='ConfusionMatrix'), F1],
     'best_accuracy_top1_epoch_1.pth'),
])
def test_metrics_that_work(jpeg_root, tmp_path, evaluator, best):
    cfg = micro_config(jpeg_root, tmp_path)
    cfg.val_evaluator = evaluator
    run_until(1, cfg)
    assert [path.name for path in tmp_path.glob('best_*.pth')] == [best]


def test_it_leaves_no_trace(jpeg_root, tmp_path):
    runner = Runner.from_cfg(micro_config(jpeg_root, tmp_path))
    runner.model.train()
    modes = [module.training for module in runner.model.modules()]
    state, random = runner.model.state_dict(), torch.get_rng_state()
    rehearse_validation(runner)
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in runner.model.modules()] == modes
    assert all(torch.equal(value, runner.model.state_dict()[name]) for name, value in state.items())
    assert runner.val_loop.evaluator.metrics[0].results == []


def test_a_few_images_may_be_bad(jpeg_root, tmp_path):
    """Validation itself says so."""
    runner = Runner.from_cfg(micro_config(jpeg_root, tmp_path))
    dataset = runner.val_dataloader.dataset
    load, loaded = dataset.prepare_data, []

    def prepare_data(index):
        if index < 3:
            raise OSError('no image')
        loaded.append(index)
        return load(index)

    dataset.prepare_data = prepare_data
    rehearse_validation(runner)
    assert loaded == [15, 14]


class OfTwoClasses(BaseMetric):
    """Cannot work with images of one class, and counts what it has seen."""

    seen = 0

    def process(self, data_batch, data_samples):
        self.seen += len(data_samples)
        self.results += [sample['gt_label'].item() for sample in data_samples]

    def compute_metrics(self, results):
        if len(set(results)) < 2:
            raise ValueError('not defined for one class')
        return dict(accuracy=1.)


def test_metrics_are_as_they_were(jpeg_root, tmp_path):
    cfg = micro_config(jpeg_root, tmp_path)
    dumped = tmp_path / 'results.pkl'
    cfg.val_evaluator = [dict(type='DumpResults', out_file_path=str(dumped)),
                         dict(type=OfTwoClasses)]
    runner = Runner.from_cfg(cfg)
    rehearse_validation(runner)
    metric = runner.val_loop.evaluator.metrics[1]
    assert metric.seen == 0 and metric.results == [] and not dumped.exists()


class Needy(BaseMetric):
    """A metric of one's own, which needs more images than a rehearsal has."""

    default_prefix = 'own'

    def process(self, data_batch, data_samples):
        self.results += data_samples

    def compute_metrics(self, results):
        if len(results) < 12:
            raise ValueError('too few')
        return dict(score=1.)


def test_a_metric_of_ones_own_may_need_more_images(jpeg_root, tmp_path):
    cfg = micro_config(jpeg_root, tmp_path)
    runner = Runner.from_cfg(cfg)
    runner.val_loop.evaluator.metrics.append(Needy())
    rehearse_validation(runner)


def test_without_validation(jpeg_root, tmp_path):
    cfg = micro_config(jpeg_root, tmp_path)
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    rehearse_validation(Runner.from_cfg(cfg))


@pytest.mark.parametrize('evaluator, works', [
    (dict(type='Accuracy', topk=(1, 5)), False), (dict(type='Accuracy', topk=(1, 2)), True)])
def test_of_a_test(jpeg_root, tmp_path, evaluator, works):
    cfg = micro_config(jpeg_root, tmp_path)
    cfg.update(test_dataloader=cfg.val_dataloader, test_cfg={}, test_evaluator=evaluator)
    with nullcontext() if works else pytest.raises(
            UserError, match='test_evaluator: Accuracy cannot judge.*categories is 4'):
        rehearse_test(Runner.from_cfg(cfg))
