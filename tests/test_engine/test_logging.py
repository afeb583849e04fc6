# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What a run says of its stages, in real runs."""
import json
import re
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from mmengine.hooks import Hook
from mmpretrain.datasets.transforms import PackInputs
from mmpretrain.registry import LOG_PROCESSORS, TRANSFORMS
from mmpretrain.utils import load_json_log

from autoprog_mm.engine import AutoProgLogProcessor
from autoprog_mm.engine.logging.autoprog_log_processor import _text
from autoprog_mm.growth import probe
from autoprog_mm.growth import search as growth_search
from autoprog_mm.planning.forecast import Range
from tests.micro import micro_config, read_record, run

# The manual schedule with an epoch a stage.
SUBNETS = [(2, 16), (3, 24), (3, 24), (4, 32)]
LINE = re.compile(
    r'Epoch\(train\) +\[(\d)\]\[ *(\d+)/\d+\]  stage: (\d)/(\d)  depth: (\d)  '
    r'resolution: (\d+)  .*eta: (not known yet|[\d:]+|[\d:]+ to [\d:]+)  time: ')


@TRANSFORMS.register_module()
class PackSeveralLabels(PackInputs):
    """Gives each image its class and the next one."""

    def transform(self, results):
        packed = super().transform(results)
        label = int(results['gt_label'])
        packed['data_samples'].set_gt_label([label, (label + 1) % 4])
        return packed


class PassesHook(Hook):
    """Counts the backbone's forward passes."""

    passes = 0

    def before_train(self, runner) -> None:
        PassesHook.passes = 0
        runner.model.backbone.register_forward_pre_hook(self.count)

    @classmethod
    def count(cls, *args) -> None:
        cls.passes += 1


@LOG_PROCESSORS.register_module()
class WatchedLogProcessor(AutoProgLogProcessor):
    """Keeps the passes that there were before and after each line."""

    lines = []

    def get_log_after_iter(self, runner, batch_idx, mode):
        before = PassesHook.passes
        result = super().get_log_after_iter(runner, batch_idx, mode)
        self.lines.append((before, PassesHook.passes))
        return result


def read_log(work_dir):
    return max(work_dir.glob('*/*.log')).read_text()


def read_scalars(work_dir):
    path = max(work_dir.glob('*/vis_data/scalars.json'))
    return [json.loads(line) for line in path.read_text().splitlines()]


def read_lines(work_dir):
    """Of each line of training: epoch, step, stage, stages, depth, resolution; and the ETA."""
    lines = [LINE.search(line).groups() for line in read_log(work_dir).splitlines()
             if 'Epoch(train)' in line]
    return [(*map(int, numbers), eta) for *numbers, eta in lines]


def watched_run(folder, cfg):
    """Train, and look at lines and at the losses before and after growths.

    Returns:
        SimpleNamespace: ``folder``; ``lines`` of :class:`WatchedLogProcessor`; ``passes`` of the
        whole run; and ``losses``, loss and number of images of each, calculated on their own with
        the weights that there are at that moment.
    """
    losses, plain = [], probe.mean_losses

    def checked(model, optim_wrapper, batches, subnets, weights):
        if len(subnets) == 1:  # or else a search scores its candidates
            losses.append(loss_by_hand(model, batches, subnets[0]))
        return plain(model, optim_wrapper, batches, subnets, weights)

    cfg.log_processor = dict(type='WatchedLogProcessor')
    cfg.default_hooks.checkpoint.interval = 100
    WatchedLogProcessor.lines = []
    with pytest.MonkeyPatch.context() as patch:
        for module in [m for key, m in sys.modules.items() if key.startswith('autoprog_mm')]:
            if getattr(module, 'mean_losses', None) is plain:
                patch.setattr(module, 'mean_losses', checked)
        run(cfg, PassesHook())
    return SimpleNamespace(folder=folder, lines=WatchedLogProcessor.lines,
                           passes=PassesHook.passes, losses=losses)


def loss_by_hand(model, batches, subnet):
    total, number = 0., 0
    training, passes = model.training, PassesHook.passes
    model.eval()
    with torch.no_grad(), model.backbone.running(subnet):
        for images, labels in batches:
            data = (images.flip(1).float() - 110) / 60
            if images.shape[-1] != subnet.resolution:
                data = F.interpolate(data, (subnet.resolution, ) * 2, mode='bilinear')
            scores = model.head(model.extract_feat(data))
            total += float(F.cross_entropy(scores, labels, reduction='sum'))
            number += len(labels)
    # mmpretrain's train() puts the norms of frozen stages back, of which there are none.
    model.train(training)
    PassesHook.passes = passes
    return total / number, number


@pytest.fixture(scope='module')
def manual(jpeg_root, tmp_path_factory):
    """Four stages of an epoch of six steps."""
    folder = tmp_path_factory.mktemp('manual')
    return watched_run(folder, micro_config(
        jpeg_root, folder, train_cfg__max_epochs=4, train_cfg__val_interval=4))


@pytest.fixture(scope='module')
def searched(jpeg_root, tmp_path_factory):
    """Three stages of an epoch of twelve steps; the shallowest of 2, 3 and 4 slots is chosen."""
    folder = tmp_path_factory.mktemp('searched')
    search = dict(type='OneShotSearch', epochs=1, eval_batches=2, evals=(1, 1), cost='flops')
    cfg = micro_config(
        jpeg_root, folder, search, train_cfg__max_epochs=3, train_cfg__val_interval=3,
        train_dataloader__batch_size=4, custom_hooks__0__num_stages=3,
        custom_hooks__0__initial_scale=dict(depth=0.5, resolution=1.),
        vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')])
    cfg.visualizer = dict(type='UniversalVisualizer', vis_backends=cfg.vis_backends)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(growth_search, 'choose', lambda costs, losses, w: (0, 0.25))
        return watched_run(folder, cfg)


def test_each_line_says_stage_and_subnet(manual):
    lines = read_lines(manual.folder)
    assert len(lines) == 4 * 3
    for epoch, step, stage, stages, *subnet, eta in lines:
        assert (stage, stages) == (epoch, 4)
        assert tuple(subnet) == SUBNETS[stage - 1]
        # Known by five steps before the one of the line, but for each epoch's first; the manual
        # schedule leaves nothing open.
        assert (eta == 'not known yet') == (epoch == 1), (epoch, step)
        assert ' to ' not in eta


def test_lines_run_no_forward_pass(manual, searched):
    """An estimate is made of what the run has seen, and of nothing else."""
    # Lines of two of six steps (or of twelve), and of validations.
    assert len(manual.lines) >= 4 * 3 and len(searched.lines) >= 3 * 6
    for before, after in manual.lines + searched.lines:
        assert before == after
    # Nor does anything else than steps, the losses around two growths, and a validation.
    assert manual.passes == 4 * 6 + 2 * 2 * 4 + 2


def test_scalars_of_steps(manual):
    rows = [row for row in read_scalars(manual.folder) if 'autoprog/stage' in row]
    assert [row['step'] for row in rows] == list(range(2, 25, 2))
    for row in rows:
        assert row['autoprog/stage'] == row['epoch']
        assert (row['autoprog/depth'], row['autoprog/resolution']) == SUBNETS[row['epoch'] - 1]
        assert ('autoprog/eta_low' in row) == (row['step'] > 6)
    # What is left at the end is a validation.
    assert rows[-1]['autoprog/eta_low'] < rows[3]['autoprog/eta_low'] / 2
    seconds = [row['autoprog/train_seconds'] for row in rows]
    assert seconds == sorted(seconds) and seconds[0] > 0
    assert seconds[-1] <= read_record(manual.folder)['train_seconds']


def test_text_of_an_eta():
    assert _text(None) == 'not known yet'
    assert _text(Range(65.4, 65.4)) == '0:01:05'
    assert _text(Range(65.4, 3725.)) == '0:01:05 to 1:02:05'
    # What differs by less than a second is no range.
    assert _text(Range(64.9, 65.1)) == '0:01:05'


def test_growths_are_checked(manual):
    """Stage 2 and 4 grow, stage 3 runs what stage 2 did; the losses are in the record."""
    stages = read_record(manual.folder)['stages']
    assert [stage['growth'] is not None for stage in stages] == [False, True, False, True]
    assert stages[1]['growth']['from'] == dict(depth=2, resolution=16)
    assert stages[3]['growth']['from'] == dict(depth=3, resolution=24)
    growth = stages[3]['growth']
    grew, = re.findall(
        rf'rew (.*) with MoGrow in \d\.\d\d s\. Loss on the same images: '
        rf'{growth["loss_before"]:.4f} before, {growth["loss_after"]:.4f} after\.',
        read_log(manual.folder))
    assert re.findall(r'\d+', grew) == ['3', '24', '4', '32']
    assert 'max_growth_jump (' not in read_log(manual.folder)


def test_rows_of_the_log_are_of_steps_and_validations(manual, searched):
    """As mmpretrain's analyze_logs.py takes what has no learning rate for a validation."""
    for folder in (manual.folder, searched.folder):
        path = max(folder.glob('*/vis_data/scalars.json'))
        logs = load_json_log(path)
        assert all('loss' in row and 'time' in row for row in logs['train']) and logs['train']
        assert all('accuracy/top1' in row for row in logs['val']) and logs['val']


def test_losses_before_and_after(manual, searched):
    """By a calculation of their own, of the weights that there are at that moment."""
    for result in (manual, searched):
        growths = [stage['growth'] for stage in read_record(result.folder)['stages']
                   if stage['growth']]
        assert len(growths) == 2
        got = [loss for growth in growths for loss in (growth['loss_before'], growth['loss_after'])]
        assert got == pytest.approx([loss for loss, _ in result.losses], rel=1e-5)
    # Of four batches.
    assert [number for _, number in manual.losses] == [4 * 8] * 4


def test_a_jump_is_warned_of(jpeg_root, tmp_path):
    """Beyond 0; in the manual run, nothing is beyond 1."""
    run(micro_config(
        jpeg_root, tmp_path, train_cfg__max_epochs=2, train_cfg__val_interval=2,
        custom_hooks__0__max_growth_jump=0, custom_hooks__0__num_stages=2,
        optim_wrapper__growth=dict(type='RandomInit'), optim_wrapper__optimizer__lr=1e-2))
    growth = read_record(tmp_path)['stages'][1]['growth']
    assert growth['loss_after'] > growth['loss_before']
    grew, = re.findall(
        rf'The loss on the same images went from {growth["loss_before"]:.4f} to '
        rf'{growth["loss_after"]:.4f} when RandomInit grew (.*), more than max_growth_jump \(0\)',
        read_log(tmp_path))
    assert re.findall(r'\d+', grew) == ['2', '16', '4', '32']


def test_several_labels_are_not_compared(jpeg_root, tmp_path):
    cfg = micro_config(
        jpeg_root, tmp_path, train_cfg__max_epochs=2, custom_hooks__0__num_stages=2,
        model__head=dict(_delete_=True, type='MultiLabelLinearClsHead', num_classes=4,
                         in_channels=16),
        model__train_cfg=None)
    cfg.train_dataloader.dataset = dict(
        type='CustomDataset', data_root=str(jpeg_root), data_prefix='train',
        pipeline=cfg.train_dataloader.dataset.pipeline)
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    for transform in cfg.train_dataloader.dataset.pipeline:
        if transform.type == 'PackInputs':
            transform.type = 'PackSeveralLabels'
    run(cfg)
    growth = read_record(tmp_path)['stages'][1]['growth']
    assert growth['loss_before'] is None and growth['loss_after'] is None
    assert 'The loss is not compared' in read_log(tmp_path)


def test_open_searches_give_a_range(searched):
    lines = read_lines(searched.folder)
    assert len(lines) == 3 * 6
    # Each step of a search draws its depth.
    assert [{depth for epoch, _, _, _, depth, _, _ in lines if epoch == number}
            for number in (1, 2, 3)] == [{2, 3, 4}, {3, 4}, {4}]
    rows = [row for row in read_scalars(searched.folder) if 'autoprog/stage' in row]
    # Of eleven steps of two candidates, one has had five.
    assert all('autoprog/eta_low' in row for row in rows if row['step'] > 10)
    for row in rows:
        if 'autoprog/eta_low' in row:
            low, high = row['autoprog/eta_low'], row['autoprog/eta_high']
            # The third epoch is that of the full network, whatever was chosen.
            assert low < high if row['epoch'] == 1 else low == high
    record = read_record(searched.folder)
    assert [stage['subnet']['depth'] for stage in record['stages']] == [2, 3, 4]
    assert len(re.findall(r'Search of stage \d, w = [\d.]+, [\d.]+ s besides training:',
                          read_log(searched.folder))) == 2
    check_tensorboard(searched.folder, record['stages'])


def check_tensorboard(work_dir, stages):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    path = max(work_dir.glob('*/vis_data/events.out.tfevents*'))
    events = EventAccumulator(str(path)).Reload()

    def scalars(name):
        return [event.value for event in events.Scalars(f'autoprog/{name}')]

    searches = [stage['search'] for stage in stages[:2]]
    chosen = [c for search in searches for c in search['candidates'] if c['chosen']]
    assert scalars('search_w') == pytest.approx([search['w'] for search in searches], rel=1e-5)
    assert scalars('search_loss') == pytest.approx([c['loss'] for c in chosen], rel=1e-5)
    assert scalars('search_depth') == [2, 3] and scalars('search_resolution') == [32, 32]
    growths = [stage['growth'] for stage in stages if stage['growth']]
    assert [event.step for event in events.Scalars('autoprog/growth_loss_after')] == [12, 24]
    for name in ('loss_before', 'loss_after'):
        assert scalars(f'growth_{name}') == pytest.approx([g[name] for g in growths], rel=1e-5)
    assert {'autoprog/stage', 'autoprog/depth', 'autoprog/resolution'} <= set(
        events.Tags()['scalars'])
