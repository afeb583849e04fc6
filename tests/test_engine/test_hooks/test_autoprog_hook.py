# Copyright (c) the autoprog_mm authors. All rights reserved.
from types import SimpleNamespace

import pytest
import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.models.backbones import VisionTransformer

from autoprog_mm import Subnet
from autoprog_mm.engine.hooks import AutoProgHook
from autoprog_mm.growth import OneShotSearch
from autoprog_mm.growth import search as growth_search
from autoprog_mm.growth.scoring import search_passes
from autoprog_mm.record import ledger
from tests.micro import STAGES, STEPS, close, load, micro_config, read_record, run
from tests.test_engine.resuming import SEARCH, run_until


class Spy(Hook):
    """Notes what each epoch and each step ran."""

    def before_train(self, runner):
        self.identities = self.look(runner)
        self.epochs, self.steps = [], []

    @staticmethod
    def look(runner):
        model, optimizer = runner.model, runner.optim_wrapper.optimizer
        return ([(name, id(param)) for name, param in model.named_parameters()],
                [[id(param) for param in group['params']] for group in optimizer.param_groups],
                [[id(copy) for copy in runner.optim_wrapper.momentum_weights(i).values()]
                 for i in range(2)])

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        backbone = runner.model.backbone
        self.steps.append(
            dict(
                epoch=runner.epoch,
                delivered=tuple(data_batch['inputs'].shape[-2:]),
                awake=backbone.awake_subnet,
                active=backbone.running_subnet,
                resized_to=runner.model.data_preprocessor.resolution))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        # Sleeping slots have no optimizer state, running ones have.
        backbone, state = runner.model.backbone, runner.optim_wrapper.optimizer.state
        for index, slot in enumerate(backbone.layers):
            assert all(p.requires_grad == (index in backbone.awake_slots[0])
                       for p in slot.parameters())
            if index not in backbone.awake_slots[0]:
                assert not any(p in state for p in slot.parameters())
            elif index in backbone.running_slots[0]:
                assert all(p in state for p in slot.parameters())

    def before_val_epoch(self, runner):
        crop = runner.train_dataloader.dataset.pipeline.transforms
        self.epochs.append(
            dict(
                subnet=runner.model.backbone.running_subnet,
                drop_path=runner.model.backbone.drop_path_rate,
                magnitude=crop[3].magnitude_level,
                erase_prob=crop[4].erase_prob))
        assert self.look(runner) == self.identities


def run_spied(cfg, *hooks):
    spy = Spy()
    runner = run(cfg, spy, *hooks)
    return runner, spy


class Clock(Hook):
    """Goes on by 1 for an image that is loaded, and by 100 for a step."""

    def __init__(self, patch):
        self.now = 0.
        patch.setattr(ledger, 'time', SimpleNamespace(perf_counter=lambda: self.now))
        load_image = LoadImageFromFile.transform
        patch.setattr(LoadImageFromFile, 'transform',
                      lambda *args: self.go_on(1) or load_image(*args))

    def go_on(self, seconds):
        self.now += seconds

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.go_on(100)


@pytest.fixture(scope='module')
def manual(jpeg_root, tmp_path_factory):
    """A run of the manual schedule by a made-up clock, what was seen of it, and its folder."""
    folder = tmp_path_factory.mktemp('manual')
    with pytest.MonkeyPatch.context() as patch:
        return (*run_spied(micro_config(jpeg_root, folder), Clock(patch)), folder)


def test_manual_schedule(manual):
    _, spy, folder = manual
    for begin, end, depth, resolution in STAGES:
        subnet = Subnet(depth, resolution)
        steps = [step for step in spy.steps if begin <= step['epoch'] < end]
        assert len(steps) == STEPS * (end - begin)
        # The pipeline delivers the size of the stage, from its first batch on.
        assert {step['delivered'] for step in steps} == {(resolution, resolution)}
        assert {step['awake'] for step in steps} == {subnet}
        assert {step['active'] for step in steps} == {subnet}
        assert {step['resized_to'] for step in steps} == {None}
        assert {epoch['subnet'] for epoch in spy.epochs[begin:end]} == {subnet}
    assert [epoch['magnitude'] for epoch in spy.epochs] == [4, 4, 6, 6, 7, 7, 9, 9]
    assert [epoch['erase_prob'] for epoch in spy.epochs] == pytest.approx(
        [0, 0, 1 / 12, 1 / 12, 1 / 6, 1 / 6, 1 / 4, 1 / 4])
    assert [epoch['drop_path'] for epoch in spy.epochs] == pytest.approx(
        [0, 0, 1 / 30, 1 / 30, 1 / 15, 1 / 15, 1 / 10, 1 / 10])

    record = read_record(folder)
    assert record['schema'] == 2
    assert record['model'] == 'ElasticDeiT'
    assert record['full'] == dict(depth=4, resolution=32)
    assert record['finished'] is True
    assert [(s['begin_epoch'], s['end_epoch'], s['subnet']['depth'], s['subnet']['resolution'])
            for s in record['stages']] == STAGES
    # Stage 2 runs what stage 1 ran, so nothing grows there.
    assert [s['operator'] for s in record['stages']] == [None, 'MoGrow', None, 'MoGrow']
    assert [s['search'] for s in record['stages']] == [None] * 4
    # Two epochs of 6 steps and of 48 and 16 images, and a growth that looks at 4 batches of 8.
    assert [s['seconds'] for s in record['stages']] == [
        dict(data=96, train=1200, search=0, growth=32 if grows else 0, val=32)
        for grows in (False, True, False, True)]
    assert record['train_seconds'] == pytest.approx(
        sum(value for s in record['stages'] for key, value in s['seconds'].items()
            if key != 'val'))


def test_baseline_is_one_full_stage(jpeg_root, tmp_path):
    cfg = micro_config(jpeg_root, tmp_path)
    cfg.custom_hooks[0] = dict(type='AutoProgHook', num_stages=1)
    cfg.train_cfg.max_epochs = 2
    _, spy = run_spied(cfg)
    assert {step['active'] for step in spy.steps} == {Subnet(4, 32)}
    assert [epoch['magnitude'] for epoch in spy.epochs] == [9, 9]
    record = read_record(tmp_path)
    assert len(record['stages']) == 1
    assert record['stages'][0]['subnet'] == dict(depth=4, resolution=32)
    assert record['stages'][0]['operator'] is None


@pytest.mark.parametrize('cost', ['flops', 'time'])
def test_search(jpeg_root, tmp_path, monkeypatch, cost):
    _, spy = run_spied(
        micro_config(jpeg_root, tmp_path, {**SEARCH, 'cost': cost}), Clock(monkeypatch))
    record = read_record(tmp_path)
    current = None
    for index, (begin, end, _, _) in enumerate(STAGES[:-1]):
        stage = record['stages'][index]
        steps = [step for step in spy.steps if begin <= step['epoch'] < end]
        if stage['search'] is None:
            # Nothing was left to grow to but the full network.
            assert current.depth >= 3 and current.resolution == 32
            current = Subnet(4, 32)
            continue
        candidates = {Subnet(c['depth'], c['resolution']) for c in stage['search']['candidates']}
        if index == 0:
            # Distinct depths 2, 3, 4 and resolutions 16, 24, 32; all pairs.
            assert candidates == {Subnet(d, r) for d in (2, 3, 4) for r in (16, 24, 32)}
        else:
            # Depths 2, 3 and 4 and resolutions 16, 24 and 32: depth goes on, resolution may stay.
            assert candidates == {
                Subnet(d, r) for d in [d for d in (3, 4) if d > current.depth] or [4]
                for r in (16, 24, 32) if current.resolution <= r <= current.resolution + 8}
        largest = Subnet(max(c.depth for c in candidates), max(c.resolution for c in candidates))
        # The first epoch trains the supernet: each step a candidate, which
        # the batch is resized to on the device.
        searching, after = steps[:STEPS], steps[STEPS:]
        assert {step['awake'] for step in searching} == {largest}
        assert {step['delivered'][0] for step in searching} == {largest.resolution}
        assert {step['active'] for step in searching} <= candidates
        assert all(step['resized_to'] == step['active'].resolution for step in searching)
        assert spy.epochs[begin]['subnet'] == largest
        assert spy.epochs[begin]['magnitude'] == 9
        # It scores on 2 batches of 8 images; steps of the supernet are training.
        assert stage['seconds'] == dict(
            data=96, train=1200, search=16, growth=32 if stage['growth'] else 0, val=32)
        # The rest of the stage trains the choice.
        chosen, = [c for c in stage['search']['candidates'] if c['chosen']]
        current = Subnet(chosen['depth'], chosen['resolution'])
        assert stage['subnet'] == dict(depth=current.depth, resolution=current.resolution)
        assert {step['active'] for step in after} == {step['awake'] for step in after} == {current}
        assert {step['resized_to'] for step in after} == {None}
        assert spy.epochs[end - 1]['magnitude'] == [4, 6, 7][index]
        # Once at the start and evals[0] = 2 times in the only search epoch.
        for c in stage['search']['candidates']:
            assert len(c['losses']) == 3
            assert c['loss'] == pytest.approx(sum(c['losses']) / 3)
            cost_of_c = c['time'] if cost == 'time' else c['flops']
            assert c['score'] == pytest.approx(c['loss'] * cost_of_c**stage['search']['w'])
            assert (c['time'] is None) == (cost == 'flops')
    assert record['stages'][-1]['subnet'] == dict(depth=4, resolution=32)
    assert record['stages'][-1]['search'] is None


def test_the_last_epoch_of_a_search_counts(jpeg_root, tmp_path, monkeypatch):
    """With its start, of which the end of the epoch before it knows the losses."""
    scored, begin_epoch = [], OneShotSearch.begin_epoch
    mean_losses = growth_search.mean_losses

    def counted(model, optim_wrapper, batches, *args):
        scored.append(len(batches))
        return mean_losses(model, optim_wrapper, batches, *args)

    def begin(self, model, optim_wrapper, *args):
        begin_epoch(self, model, optim_wrapper, *args)
        # After validation and all else between two epochs, the same bits.
        assert [losses[-1] for losses in self.losses] == mean_losses(
            model, optim_wrapper, self.batches, self.candidates, optim_wrapper.momentum_weights(0))

    monkeypatch.setattr(growth_search, 'mean_losses', counted)
    monkeypatch.setattr(OneShotSearch, 'begin_epoch', begin)
    search = dict(epochs=2, eval_batches=2, evals=(2, 3), cost='flops')
    run_until(micro_config(jpeg_root, tmp_path, dict(search, type='OneShotSearch'),
                           custom_hooks__0__num_stages=2, train_cfg__max_epochs=4), 2 * STEPS)
    candidates = read_record(tmp_path)['stages'][0]['search']['candidates']
    assert len(candidates) == 4
    for c in candidates:  # of 1, 2 and 3 times, the last 4 count
        assert len(c['losses']) == 6
        assert c['loss'] == pytest.approx(sum(c['losses'][2:]) / 4, rel=1e-12)
    assert scored == [2] * 6
    assert search_passes(OneShotSearch(**search), STEPS) == pytest.approx(sum(scored) / 3)


def test_checkpoints_are_plain_and_load_into_the_stock_model(manual):
    runner, _, folder = manual
    weights = load(folder / 'epoch_8.pth')['state_dict']
    backbone = {
        key[len('backbone.'):]: value for key, value in weights.items()
        if key.startswith('backbone.')
    }
    stock = VisionTransformer(
        arch=dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=32),
        img_size=32, patch_size=8)
    stock.load_state_dict(backbone, strict=True)
    # A checkpoint holds the last momentum copy.
    momentum = runner.optim_wrapper.momentum_weights()
    assert all(torch.equal(weights[name], value) for name, value in momentum.items())
    elastic = runner.model.backbone
    elastic.load_state_dict(backbone, strict=True)
    images = torch.randn(2, 3, 32, 32)
    for module in (stock, elastic):
        module.eval()
    assert torch.equal(stock(images)[0], elastic(images)[0])


def test_validation_uses_the_momentum_weights(jpeg_root, tmp_path):
    seen = []

    class Look(Hook):
        priority = 'LOWEST'

        def before_val_iter(self, runner, batch_idx, data_batch=None):
            online = runner.model.head.layers.head.weight.detach().clone()
            seen.append(online)

        def after_val_epoch(self, runner, metrics=None):
            name = 'head.layers.head.weight'
            assert torch.equal(seen[-1], runner.optim_wrapper.momentum_weights()[name])
            assert not torch.equal(seen[-1], runner.model.head.layers.head.weight)

    run_until(micro_config(jpeg_root, tmp_path), 2 * STEPS, Look())
    assert len(seen) == 2 * 2


def test_stock_augmentation_that_does_not_follow_is_warned_of(jpeg_root, tmp_path, capfd):
    cfg = micro_config(jpeg_root, tmp_path)
    cfg.train_dataloader.dataset.pipeline[3].type = 'RandAugment'
    run_until(cfg, 1)
    assert 'use ProgressiveRandAugment, or regularization.rand_augment=1' in ''.join(
        capfd.readouterr())


@pytest.mark.parametrize('how', ['test', 'val'])
def test_unfinished_weights_are_tested_as_they_stood(manual, jpeg_root, tmp_path, how):
    """An early checkpoint gives the accuracy that it was validated with."""
    trained, _, folder = manual
    cfg = micro_config(jpeg_root, tmp_path, load_from=str(folder / 'epoch_3.pth'))
    cfg.test_dataloader, cfg.test_cfg = cfg.val_dataloader, dict()
    cfg.test_evaluator = cfg.val_evaluator
    runner = Runner.from_cfg(cfg)
    metrics = getattr(runner, how)()
    close(runner)
    assert runner.model.backbone.awake_subnet == Subnet(3, 24)
    # Slots as they were awake in epoch 3, worked out by hand: base 0 2, then 3.
    assert runner.model.backbone.awake_slots == ((0, 2, 3), )
    history = trained.message_hub.get_scalar('val/accuracy/top1').data[0]
    assert metrics['accuracy/top1'] == pytest.approx(history[2])


def test_defaults_are_the_documented_ones():
    hook = AutoProgHook()
    assert hook.schedule == dict(
        num_stages=4, initial_scale=dict(depth=0.5, resolution=0.5), resolution_divisor=32,
        regularization=dict(rand_augment=0.5, random_erasing=0., drop_path=0.))
    assert (hook.search.epochs, hook.search.eval_batches, hook.search.evals,
            hook.search.cost) == (2, 50, (1, 4), 'time')


@pytest.mark.parametrize('by_epoch', [True, False])
def test_decisions_are_saved_at_once(jpeg_root, tmp_path, by_epoch):
    """Of stages of two epochs, each with a search in the first."""
    run_until(micro_config(
        jpeg_root, tmp_path, SEARCH, default_hooks__checkpoint__interval=100,
        default_hooks__checkpoint__by_epoch=by_epoch,
        default_hooks__checkpoint__save_best=None), 3 * STEPS)
    decisions = [stage['begin_epoch'] + 1 for stage in read_record(tmp_path)['stages']
                 if stage['search']]
    assert decisions and decisions[0] == 1
    template = 'epoch_{}.pth' if by_epoch else 'iter_{}.pth'
    names = [template.format(epoch if by_epoch else STEPS * epoch) for epoch in decisions]
    assert sorted(path.name for path in tmp_path.glob('*.pth')) == sorted(names)
    state = load(tmp_path / names[0])
    assert state['autoprog']['choice'] is not None and state['meta']['epoch'] == 1


def test_a_run_from_other_weights_begins_at_its_beginning(manual, jpeg_root, tmp_path):
    """With load_from and without resume, only the weights are taken."""
    *_, folder = manual
    run_until(micro_config(jpeg_root, tmp_path, load_from=str(folder / 'epoch_5.pth')), 1)
    stage, = read_record(tmp_path)['stages']
    assert (stage['index'], stage['subnet']) == (0, dict(depth=2, resolution=16))


def test_no_config_text_survives_without_our_checkpoint_hook():
    """mmengine's resume would run it."""
    checkpoint = dict(meta=dict(config='boom()', epoch=1), state_dict={})
    runner = SimpleNamespace(_resume=False, _train_loop=None, _val_loop=None, _test_loop=None,
                             model=torch.nn.Identity())
    AutoProgHook().after_load_checkpoint(runner, checkpoint)
    assert checkpoint['meta'] == dict(epoch=1)


def test_none_is_the_default():
    hook = AutoProgHook(initial_scale=None, regularization=None)
    assert hook.schedule == AutoProgHook().schedule
