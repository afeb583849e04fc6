# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What a run says of its stages, in real runs."""
import json
import re

import pytest
import torch
import torch.nn.functional as F
from mmpretrain.datasets.transforms import PackInputs
from mmpretrain.registry import TRANSFORMS

from autoprog_mm.engine import AutoProgHook
from tests.micro import STAGES, micro_config, read_record, run

SEARCH = dict(type='OneShotSearch', epochs=1, eval_batches=2, evals=(1, 1), cost='flops')
LINE = re.compile(
    r'Epoch\(train\) +\[(\d)\]\[(\d)/6\]  stage: (\d)/4  depth: (\d)  resolution: (\d+)  .*'
    r'eta: (not known yet|[\d:]+|[\d:]+ to [\d:]+)  time: ')


@TRANSFORMS.register_module()
class PackSeveralLabels(PackInputs):
    """Gives each image its class and the next one."""

    def transform(self, results):
        packed = super().transform(results)
        label = int(results['gt_label'])
        packed['data_samples'].set_gt_label([label, (label + 1) % 4])
        return packed


def read_log(work_dir):
    return max(work_dir.glob('*/*.log')).read_text()


def read_scalars(work_dir):
    path = max(work_dir.glob('*/vis_data/scalars.json'))
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope='module')
def manual(jpeg_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp('manual')
    run(micro_config(jpeg_root, folder, log_processor=dict(type='AutoProgLogProcessor')))
    return folder


def test_each_line_says_stage_and_subnet(manual):
    lines = [line for line in read_log(manual).splitlines() if 'Epoch(train)' in line]
    assert len(lines) == 8 * 3
    for line in lines:
        epoch, step, stage, depth, resolution, eta = LINE.search(line).groups()
        begin, end, *subnet = STAGES[int(stage) - 1]
        assert begin < int(epoch) <= end
        assert [int(depth), int(resolution)] == subnet
        # Known by ten steps before the one of the line, but for each epoch's first; the manual
        # schedule leaves nothing open.
        early = (int(epoch) - 1) * 6 + int(step) <= 12
        assert (eta == 'not known yet') == early, line
        assert ' to ' not in eta
    assert LINE.search(lines[-1]).group(6) == '0:00:00'


def test_scalars_of_steps(manual):
    rows = [row for row in read_scalars(manual) if 'autoprog/stage' in row]
    assert [row['step'] for row in rows] == list(range(2, 49, 2))
    for row in rows:
        begin, end, depth, resolution = STAGES[row['autoprog/stage'] - 1]
        assert begin < row['epoch'] <= end
        assert (row['autoprog/depth'], row['autoprog/resolution']) == (depth, resolution)
        assert ('autoprog/eta_low' in row) == (row['step'] > 12)
    seconds = [row['autoprog/train_seconds'] for row in rows]
    assert seconds == sorted(seconds) and seconds[0] > 0
    assert seconds[-1] <= read_record(manual)['train_seconds']


def test_growths_are_checked(manual):
    """Stage 2 and 4 grow, stage 3 runs what stage 2 did; the losses are in record and scalars."""
    stages = read_record(manual)['stages']
    assert [stage['growth'] is not None for stage in stages] == [False, True, False, True]
    assert stages[1]['growth']['from'] == dict(depth=2, resolution=16)
    assert stages[3]['growth']['from'] == dict(depth=3, resolution=24)
    rows = [row for row in read_scalars(manual) if 'autoprog/growth_loss_before' in row]
    assert [row['step'] for row in rows] == [12, 36]
    for row, stage in zip(rows, (stages[1], stages[3])):
        assert row['autoprog/growth_loss_before'] == stage['growth']['loss_before']
        assert row['autoprog/growth_loss_after'] == stage['growth']['loss_after']
    text = read_log(manual)
    growth = stages[3]['growth']
    assert re.search(
        r'Stage 4/4, epochs 7 to 8: grew from depth 3 at 24 px to depth 4 at 32 px with MoGrow in '
        rf'\d\.\d\d s\. Loss on the same images: {growth["loss_before"]:.4f} before, '
        rf'{growth["loss_after"]:.4f} after\.', text)
    assert 'max_growth_jump' not in re.sub(r'max_growth_jump=', '', text)


def test_losses_before_and_after(jpeg_root, tmp_path, monkeypatch):
    """By a calculation of their own, of the weights that there are at that moment."""
    expected, plain = [], AutoProgHook._online_loss

    def checked(hook, batches, subnet):
        loss = plain(hook, batches, subnet)
        model, total, number = hook.model, 0., 0
        training = model.training
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
        expected.append((total / number, number, subnet))
        return loss

    monkeypatch.setattr(AutoProgHook, '_online_loss', checked)
    cfg = micro_config(jpeg_root, tmp_path, SEARCH, train_cfg__max_epochs=4)
    run(cfg)
    stages = [stage for stage in read_record(tmp_path)['stages'] if stage['growth']]
    growths = [stage['growth'] for stage in stages]
    assert growths
    got = [loss for growth in growths for loss in (growth['loss_before'], growth['loss_after'])]
    assert got == pytest.approx([loss for loss, _, _ in expected], rel=1e-5)
    # The search's own two batches of eight images, or else four.
    assert [number for _, number, _ in expected[::2]] == [
        16 if stage['search'] else 32 for stage in stages]


@pytest.mark.parametrize('limit, warns', [(0, True), (100., False)])
def test_a_jump_is_warned_of(jpeg_root, tmp_path, limit, warns):
    cfg = micro_config(
        jpeg_root, tmp_path, train_cfg__max_epochs=4, custom_hooks__0__max_growth_jump=limit,
        optim_wrapper__growth=dict(type='RandomInit'), custom_hooks__0__num_stages=2,
        optim_wrapper__optimizer__lr=1e-2)
    run(cfg)
    growth = read_record(tmp_path)['stages'][1]['growth']
    assert (growth['loss_after'] > growth['loss_before']) or not warns
    warning = (f'The loss on the same images went from {growth["loss_before"]:.4f} to '
               f'{growth["loss_after"]:.4f} when RandomInit grew depth 2 at 16 px to depth 4 at '
               f'32 px, more than max_growth_jump ({limit:g})')
    assert (warning in read_log(tmp_path)) == warns


def test_several_labels_are_not_compared(jpeg_root, tmp_path):
    cfg = micro_config(
        jpeg_root, tmp_path, train_cfg__max_epochs=4,
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
    assert [stage['growth'] and stage['growth']['loss_before']
            for stage in read_record(tmp_path)['stages']] == [None] * 4
    assert 'The loss is not compared' in read_log(tmp_path)


def test_open_searches_give_a_range(jpeg_root, tmp_path):
    cfg = micro_config(jpeg_root, tmp_path, SEARCH, log_processor=dict(
        type='AutoProgLogProcessor'), vis_backends=[
            dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')])
    cfg.visualizer = dict(type='UniversalVisualizer', vis_backends=cfg.vis_backends)
    run(cfg)
    lines = [line for line in read_log(tmp_path).splitlines() if 'Epoch(train)' in line]
    record = read_record(tmp_path)
    searched = [stage['index'] for stage in record['stages'] if stage['search']]
    last = 2 * searched[-1] + 1  # the epoch, from 1, with the last search
    for line in lines:
        epoch, step, stage, depth, resolution, eta = LINE.search(line).groups()
        if int(epoch) > last:
            assert re.fullmatch(r'[\d:]+', eta), line
    rows = [row for row in read_scalars(tmp_path) if 'autoprog/eta_low' in row]
    assert all(row['autoprog/eta_low'] <= row['autoprog/eta_high'] for row in rows)
    known = [row['epoch'] for row in rows if row['autoprog/eta_low'] == row['autoprog/eta_high']]
    assert set(known) >= set(range(last + 1, 9))
    decisions = [row for row in read_scalars(tmp_path) if 'autoprog/search_w' in row]
    assert len(decisions) == len(searched)
    for row, index in zip(decisions, searched):
        chosen, = [c for c in record['stages'][index]['search']['candidates'] if c['chosen']]
        assert row['autoprog/search_loss'] == chosen['loss']
        assert row['autoprog/search_depth'] == chosen['depth']
        assert row['autoprog/search_resolution'] == chosen['resolution']
    text = read_log(tmp_path)
    assert len(re.findall(r'Search of stage \d, w = [\d.]+, [\d.]+ s besides training:', text)) \
        == len(searched)
    check_tensorboard(tmp_path, decisions)


def check_tensorboard(work_dir, decisions):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    path = max(work_dir.glob('*/vis_data/events.out.tfevents*'))
    events = EventAccumulator(str(path)).Reload()
    got = events.Scalars('autoprog/search_w')
    assert [event.step for event in got] == [row['step'] for row in decisions]
    assert [event.value for event in got] == pytest.approx(
        [row['autoprog/search_w'] for row in decisions], rel=1e-5)
    assert {'autoprog/stage', 'autoprog/depth', 'autoprog/resolution'} <= set(
        events.Tags()['scalars'])
