# Copyright (c) the autoprog_mm authors. All rights reserved.
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.models.backbones import VisionTransformer

from autoprog_mm import Subnet
from autoprog_mm.engine.hooks import AutoProgHook
from tests.micro import (
    STAGES,
    STEPS,
    close,
    differences,
    load,
    micro_config,
    read_record,
    resume,
    run,
)

SEARCH = dict(type='OneShotSearch', epochs=1, eval_batches=2, evals=(2, 1), cost='flops')


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


def run_spied(cfg):
    spy = Spy()
    runner = run(cfg, spy)
    return runner, spy


def test_manual_schedule(jpeg_root, tmp_path):
    runner, spy = run_spied(micro_config(jpeg_root, tmp_path))
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

    record = read_record(tmp_path)
    assert record['schema'] == 1
    assert record['model'] == 'ElasticDeiT'
    assert record['full'] == dict(depth=4, resolution=32)
    assert record['finished'] is True
    assert [(s['begin_epoch'], s['end_epoch'], s['subnet']['depth'], s['subnet']['resolution'])
            for s in record['stages']] == STAGES
    # Stage 2 runs what stage 1 ran, so nothing grows there.
    assert [s['operator'] for s in record['stages']] == [None, 'MoGrow', None, 'MoGrow']
    assert [s['search'] for s in record['stages']] == [None] * 4
    assert all(set(s['seconds']) == {'data', 'train', 'search', 'growth', 'val'}
               for s in record['stages'])
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
def test_search(jpeg_root, tmp_path, cost):
    runner, spy = run_spied(micro_config(jpeg_root, tmp_path, {**SEARCH, 'cost': cost}))
    record = read_record(tmp_path)
    current = None
    for index, (begin, end, _, _) in enumerate(STAGES[:-1]):
        stage = record['stages'][index]
        steps = [step for step in spy.steps if begin <= step['epoch'] < end]
        if stage['search'] is None:
            # Nothing was left to grow to but the full network.
            assert current == Subnet(4, 32)
            continue
        candidates = {Subnet(c['depth'], c['resolution']) for c in stage['search']['candidates']}
        if index == 0:
            # Distinct depths 2, 3, 4 and resolutions 16, 24, 32; all pairs.
            assert candidates == {Subnet(d, r) for d in (2, 3, 4) for r in (16, 24, 32)}
        else:
            assert current in candidates
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


def test_search_that_stays_near_the_schedule(jpeg_root, tmp_path):
    search = {**SEARCH, 'first_stage': 1, 'max_lag': 0, 'reduction': 'last', 'min_w': 0.05}
    _, spy = run_spied(micro_config(jpeg_root, tmp_path, search))
    stages = read_record(tmp_path)['stages']
    # Up to first_stage all is as in the manual schedule.
    begin, end, depth, resolution = STAGES[0]
    steps = [step for step in spy.steps if begin <= step['epoch'] < end]
    assert {step['active'] for step in steps} == {Subnet(depth, resolution)}
    assert {step['resized_to'] for step in steps} == {None}
    assert stages[0]['search'] is None
    assert [epoch['magnitude'] for epoch in spy.epochs[:2]] == [4, 4]
    # The search begins where the schedule stands: from 2x16 to depths of 3 or 4 at 24.
    assert stages[1]['growth']['from'] == dict(depth=2, resolution=16)
    assert [(c['depth'], c['resolution']) for c in stages[1]['search']['candidates']] == [
        (3, 24), (4, 24)]
    assert stages[1]['search']['w'] == 0.05  # two candidates have no trend
    for stage, (_, _, depth, resolution) in zip(stages, STAGES):
        assert stage['subnet']['depth'] >= depth
        assert stage['subnet']['resolution'] >= resolution
        for c in (stage['search'] or {}).get('candidates', ()):
            assert c['depth'] >= depth and c['resolution'] >= resolution
            assert c['loss'] == c['losses'][-1] != c['losses'][0]
            assert c['score'] == pytest.approx(c['loss'] * c['flops']**stage['search']['w'])
            assert not c['chosen'] or c['score'] == min(
                other['score'] for other in stage['search']['candidates'])


def test_checkpoints_are_plain_and_load_into_the_stock_model(jpeg_root, tmp_path):
    runner, _ = run_spied(micro_config(jpeg_root, tmp_path))
    weights = load(tmp_path / 'epoch_8.pth')['state_dict']
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

    run(micro_config(jpeg_root, tmp_path, train_cfg__max_epochs=4), Look())
    assert len(seen) == 4 * 2


def two_crops(cfg):
    pipeline = cfg.train_dataloader.dataset.pipeline
    pipeline.insert(2, pipeline[1])


def set_hook(**options):
    return lambda cfg: cfg.custom_hooks[0].update(options)


BROKEN = {
    'scale of 0': (set_hook(initial_scale=dict(depth=0., resolution=0.5)),
                   r'initial_scale\.depth.*\(0, 1\].*0\.0'),
    'scale above 1': (set_hook(initial_scale=dict(depth=0.5, resolution=1.2)),
                      r'initial_scale\.resolution.*1\.2'),
    'scale of text': (set_hook(initial_scale=dict(depth='half')), r"initial_scale\.depth.*'half'"),
    'unknown scale': (set_hook(initial_scale=dict(width=0.5)), r"initial_scale.*\['width'\]"),
    'unknown regularizer': (set_hook(regularization=dict(mixup=0.5)),
                            r"regularization.*\['mixup'\]"),
    'negative regularizer': (set_hook(regularization=dict(drop_path=-0.1)),
                             r'regularization\.drop_path.*-0\.1'),
    'precision': (lambda cfg: cfg.env_cfg.update(float32_matmul_precision='tf32'),
                  r"env_cfg\.float32_matmul_precision.*'highest'.*'tf32'"),
    'no stages': (set_hook(num_stages=0), r'num_stages.*0'),
    'more stages than epochs': (set_hook(num_stages=9), r'num_stages \(9\).*max_epochs \(8\)'),
    'search too long': (set_hook(search={**SEARCH, 'epochs': 3}),
                        r'search\.epochs \(3\).*stage 0 has 2 epochs'),
    'search of no epochs': (set_hook(search={**SEARCH, 'epochs': 0}), r'search\.epochs.*0'),
    'unknown cost': (set_hook(search={**SEARCH, 'cost': 'joule'}), r"search\.cost.*'joule'"),
    'no evaluation': (set_hook(search={**SEARCH, 'evals': (0, 1)}), r'search\.evals\[0\].*0'),
    'divisor against patch': (set_hook(resolution_divisor=2),
                              r'resolution \(22\).*divisible by 8.*resolution_divisor'),
    'divisor against resolution': (set_hook(resolution_divisor=12),
                                   r'resolution_divisor \(12\).*\(32\)'),
    'size against patch': (lambda cfg: cfg.model.backbone.update(img_size=36),
                           r'img_size.*36.*patch_size'),
    'rigid backbone': (lambda cfg: cfg.model.backbone.update(type='VisionTransformer'),
                       r'elastic model\.backbone.*VisionTransformer'),
    'no progressive crop': (lambda cfg: cfg.train_dataloader.dataset.pipeline[1].update(
        type='RandomResizedCrop'), r'exactly one ProgressiveRandomResizedCrop.*has 0'),
    'two progressive crops': (two_crops, r'exactly one ProgressiveRandomResizedCrop.*has 2'),
    'crop of another size': (lambda cfg: cfg.train_dataloader.dataset.pipeline[1].update(scale=24),
                             r'scale.*\(24\).*img_size.*\(32\)'),
    'crop that is not square': (
        lambda cfg: cfg.train_dataloader.dataset.pipeline[1].update(scale=(32, 24)),
        r'must be square.*24'),
    'wrapper that cannot grow': (
        lambda cfg: (cfg.optim_wrapper.update(type='OptimWrapper'),
                     cfg.optim_wrapper.pop('ema_decays'), cfg.custom_hooks.pop()),
        r'optim_wrapper\.type.*got OptimWrapper'),
    'no momentum to validate with': (
        lambda cfg: (cfg.optim_wrapper.update(type='OptimWrapper'),
                     cfg.optim_wrapper.pop('ema_decays'), cfg.custom_hooks.pop(0)),
        r'MoGrowEMAHook needs optim_wrapper\.type.*OptimWrapper'),
    'stock preprocessor with a search': (
        lambda cfg: (set_hook(search=SEARCH)(cfg), cfg.model.data_preprocessor.update(
            type='ClsDataPreprocessor')), r'ElasticDataPreprocessor.*ClsDataPreprocessor'),
    'decay of 1': (lambda cfg: cfg.optim_wrapper.update(ema_decays=(0.9, 1.)),
                   r'ema_decays.*\(0, 1\)'),
    'no decays': (lambda cfg: cfg.optim_wrapper.update(ema_decays=()), r'ema_decays.*empty'),
    'unknown operator': (lambda cfg: cfg.optim_wrapper.update(growth=dict(type='Grow')),
                         r"growth.*'MoGrow'.*'Grow'"),
    'unknown optimizer state': (lambda cfg: cfg.optim_wrapper.update(optimizer_state='drop'),
                                r"optimizer_state.*'drop'"),
    'stock EMA beside growth': (lambda cfg: cfg.custom_hooks.append(dict(type='EMAHook')),
                                'EMAHook.*MoGrowEMAHook in its place'),
    'checkpoints by step': (
        lambda cfg: (cfg.default_hooks.checkpoint.update(by_epoch=False),
                     cfg.train_cfg.update(type='EpochBasedTrainLoop')),
        "by_epoch=False.*train_cfg.type='ResumableTrainLoop'.*EpochBasedTrainLoop"),
    'steps that accumulate': (
        lambda cfg: (cfg.default_hooks.checkpoint.update(by_epoch=False, interval=4),
                     cfg.optim_wrapper.update(accumulative_counts=3)),
        r'interval of SafeCheckpointHook \(4 steps\).*accumulative_counts \(3\)'),
    'first step that accumulates': (
        lambda cfg: (cfg.default_hooks.checkpoint.update(
            by_epoch=False, interval=6, save_begin=4),
            cfg.optim_wrapper.update(accumulative_counts=3)),
        r'save_begin of SafeCheckpointHook \(4 steps\).*accumulative_counts \(3\)'),
    'bad images': (
        lambda cfg: cfg.default_hooks.guard.update(max_bad_images=-1), 'max_bad_images.*-1'),
    'nonfinite losses': (
        lambda cfg: cfg.default_hooks.guard.update(max_nonfinite=0), 'max_nonfinite.*0'),
    'iterations': (lambda cfg: (
        setattr(cfg, 'train_cfg', dict(by_epoch=False, max_iters=8)),
        setattr(cfg, 'param_scheduler', None)), r'EpochBasedTrainLoop.*IterBasedTrainLoop'),
    'rate of drop path': (lambda cfg: cfg.model.backbone.update(drop_path_rate=1.),
                          r'drop_path_rate must be a number in \[0, 1\).*1\.0'),
    'checkpoint before a beginning': (
        lambda cfg: cfg.default_hooks.checkpoint.update(save_begin=-1), 'save_begin.*less than 0'),
    'evaluations of text': (set_hook(search={**SEARCH, 'evals': 'often'}),
                            r"search\.evals.*'often'"),
    'no batches to score': (set_hook(search={**SEARCH, 'eval_batches': 0}),
                            r'search\.eval_batches.*0'),
    'lag of less than nothing': (set_hook(search={**SEARCH, 'max_lag': -1}),
                                 r'search\.max_lag.*-1'),
    'search before the beginning': (set_hook(search={**SEARCH, 'first_stage': -1}),
                                    r'search\.first_stage.*-1'),
    'search of no stage': (set_hook(search={**SEARCH, 'first_stage': None}),
                           r'search\.first_stage must be an int of at least 0, but got None'),
    'search from the last stage on': (set_hook(search={**SEARCH, 'first_stage': 3}),
                                      r'search\.first_stage \(3\) must be below 3'),
    'least exponent of less than nothing': (set_hook(search={**SEARCH, 'min_w': -0.1}),
                                            r'search\.min_w.*-0\.1'),
    'least exponent of more than one': (set_hook(search={**SEARCH, 'min_w': 2}),
                                        r'search\.min_w must be a number in \[0, 1\].*2'),
    'unknown reduction': (set_hook(search={**SEARCH, 'reduction': 'best'}),
                          r"search\.reduction.*'best'"),
    'mistyped checkpoint hook': (
        lambda cfg: cfg.default_hooks.checkpoint.update(max_keep_ckpt=3), r"\['max_keep_ckpt'\]"),
    'mistyped hook': (set_hook(num_stage=4), "unexpected keyword argument 'num_stage'"),
    'mistyped search': (set_hook(search={**SEARCH, 'epoch': 1}),
                        "unexpected keyword argument 'epoch'"),
    'mistyped guard': (lambda cfg: cfg.default_hooks.guard.update(max_bad=3),
                       "unexpected keyword argument 'max_bad'"),
    'mistyped loop': (lambda cfg: cfg.train_cfg.update(epochs=3),
                      "unexpected keyword argument 'epochs'"),
    'mistyped ema hook': (lambda cfg: cfg.custom_hooks[1].update(momentum=0.1),
                          "unexpected keyword argument 'momentum'"),
    'mistyped optimizer wrapper': (lambda cfg: cfg.optim_wrapper.update(ema_decay=(0.9, )),
                                   "unexpected keyword argument 'ema_decay'"),
    'mistyped operator': (
        lambda cfg: cfg.optim_wrapper.update(growth=dict(type='MoGrow', power=2)),
        'MoGrow.* takes no arguments'),
    'mistyped crop': (lambda cfg: cfg.train_dataloader.dataset.pipeline[1].update(sacle=32),
                      "unexpected keyword argument 'sacle'"),
    'mistyped rand augment': (
        lambda cfg: cfg.train_dataloader.dataset.pipeline[3].update(levle=1),
        "unexpected keyword argument 'levle'"),
    'mistyped erasing': (
        lambda cfg: cfg.train_dataloader.dataset.pipeline[4].update(erase_porb=1.),
        "unexpected keyword argument 'erase_porb'"),
    'mistyped backbone': (lambda cfg: cfg.model.backbone.update(drop_path=0.1),
                          "unexpected keyword argument 'drop_path'"),
    'mistyped preprocessor': (lambda cfg: cfg.model.data_preprocessor.update(means=[0.]),
                              "unexpected keyword argument 'means'"),
}


def test_there_are_many_ways_to_break_a_config():
    assert len(BROKEN) >= 40


@pytest.mark.parametrize('name', BROKEN)
def test_broken_config_gets_a_clear_error(jpeg_root, tmp_path, name):
    break_it, message = BROKEN[name]
    cfg = micro_config(jpeg_root, tmp_path)
    break_it(cfg)
    steps = []

    class Steps(Hook):

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            steps.append(batch_idx)

    # Python itself calls a mistyped key a TypeError.
    with pytest.raises(TypeError if name.startswith('mistyped') and name != 'mistyped checkpoint '
                       'hook' else ValueError, match=message):
        run(cfg, Steps())
    assert steps == []
    assert not (tmp_path / 'autoprog.json').exists()


def test_stock_augmentation_that_does_not_follow_is_warned_of(jpeg_root, tmp_path, capfd):
    cfg = micro_config(jpeg_root, tmp_path, train_cfg__max_epochs=4)
    cfg.train_dataloader.dataset.pipeline[3].type = 'RandAugment'
    run(cfg)
    assert 'use ProgressiveRandAugment, or regularization.rand_augment=1' in ''.join(
        capfd.readouterr())


def test_resume_checks_the_schedule(jpeg_root, tmp_path):
    run(micro_config(jpeg_root, tmp_path / 'a', train_cfg__max_epochs=4))
    cfg = micro_config(jpeg_root, tmp_path / 'b')
    with pytest.raises(ValueError, match=r'another schedule.*\[0, 1, 2, 16\].*\[0, 2, 2, 16\]'):
        resume(cfg, tmp_path / 'a' / 'epoch_2.pth')
    cfg = micro_config(
        jpeg_root, tmp_path / 'c', {**SEARCH, 'epochs': 1}, train_cfg__max_epochs=4)
    with pytest.raises(ValueError, match='made without a search'):
        resume(cfg, tmp_path / 'a' / 'epoch_2.pth')
    plain = load(tmp_path / 'a' / 'epoch_2.pth')
    del plain['autoprog']
    torch.save(plain, tmp_path / 'plain.pth')
    cfg = micro_config(jpeg_root, tmp_path / 'd', train_cfg__max_epochs=4)
    with pytest.raises(ValueError, match='without AutoProgHook.*load_from'):
        resume(cfg, tmp_path / 'plain.pth')
    other = load(tmp_path / 'a' / 'epoch_2.pth')
    other['autoprog']['schema'] = 1
    torch.save(other, tmp_path / 'other.pth')
    with pytest.raises(ValueError, match='state of schema 1; this version reads schema 2'):
        resume(cfg, tmp_path / 'other.pth')


def test_best_checkpoints_cannot_be_resumed(jpeg_root, tmp_path):
    run(micro_config(jpeg_root, tmp_path, train_cfg__max_epochs=4))
    best, = tmp_path.glob('best_*.pth')
    cfg = micro_config(jpeg_root, tmp_path / 'b', train_cfg__max_epochs=4)
    with pytest.raises(ValueError, match='no optimizer.*best checkpoints.*load_from'):
        resume(cfg, best)


@pytest.mark.parametrize('how', ['test', 'val'])
def test_unfinished_weights_are_tested_as_they_stood(jpeg_root, tmp_path, how):
    """An early checkpoint gives the accuracy that it was validated with."""
    trained = run(micro_config(jpeg_root, tmp_path))
    cfg = micro_config(jpeg_root, tmp_path / 'test', load_from=str(tmp_path / 'epoch_3.pth'))
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


def test_a_search_is_resumed_with_its_settings(jpeg_root, tmp_path):
    run(micro_config(jpeg_root, tmp_path, SEARCH))
    for key, value in dict(epochs=2, eval_batches=1, evals=(1, 1), cost='time', max_lag=1,
                           first_stage=1, reduction='last', min_w=0.1).items():
        cfg = micro_config(jpeg_root, tmp_path / key, {**SEARCH, key: value})
        with pytest.raises(ValueError, match=f"search=.*'{key}'.*set the same"):
            resume(cfg, tmp_path / 'epoch_1.pth')


def test_gradients_do_not_cross_epochs(jpeg_root, tmp_path):
    """Six steps an epoch and an update every four: two steps' gradients are left over."""

    class Look(Hook):
        priority = 'LOWEST'

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if batch_idx == 0:
                assert all(p.grad is None for p in runner.model.parameters())

    cfg = micro_config(jpeg_root, tmp_path / 'a', optim_wrapper__accumulative_counts=4)
    run(cfg, Look())
    cfg.work_dir = str(tmp_path / 'b')
    resume(cfg, tmp_path / 'a' / 'epoch_3.pth')
    expected, got = (load(tmp_path / name / 'epoch_8.pth') for name in 'ab')
    assert differences(expected['online_state_dict'], got['online_state_dict']) == []
    assert differences(expected['optimizer'], got['optimizer']) == []


def test_defaults_are_the_documented_ones():
    hook = AutoProgHook()
    assert hook.num_stages == 4
    assert hook.initial_scale == dict(depth=0.5, resolution=0.5)
    assert hook.regularization == dict(rand_augment=0.5, random_erasing=0., drop_path=0.)
    assert (hook.search.epochs, hook.search.eval_batches, hook.search.evals,
            hook.search.cost) == (2, 50, (1, 4), 'time')


@pytest.mark.parametrize('by_epoch', [True, False])
def test_decisions_are_saved_at_once(jpeg_root, tmp_path, by_epoch):
    """Of stages of two epochs, each with a search in the first."""
    run(micro_config(
        jpeg_root, tmp_path, {**SEARCH, 'epochs': 1}, default_hooks__checkpoint__interval=100,
        default_hooks__checkpoint__by_epoch=by_epoch, default_hooks__checkpoint__save_best=None))
    decisions = [stage['begin_epoch'] + 1 for stage in read_record(tmp_path)['stages']
                 if stage['search']]
    assert decisions and decisions[0] == 1
    steps = [(epoch if by_epoch else 6 * epoch) for epoch in [*decisions, 8]]
    template = 'epoch_{}.pth' if by_epoch else 'iter_{}.pth'
    assert sorted(path.name for path in tmp_path.glob('*.pth')) == sorted(
        template.format(step) for step in steps)
    state = load(tmp_path / template.format(steps[0]))
    assert state['autoprog']['choice'] is not None and state['meta']['epoch'] == 1


@pytest.mark.parametrize('options, match', [
    (dict(model__backbone__arch__feedforward_channels=48),
     r'of another model, a ElasticDeiT: .*is of shape \(32, 16\) instead of \(48, 16\)'),
    (dict(model__backbone__layer_scale_init_value=1e-5),
     'of another model.*gamma1.weight is missing'),
    (dict(train_dataloader__batch_size=16),
     'made with 6 steps an epoch, but now there are 3.*same data, batch size'),
])
def test_resume_checks_model_and_steps(jpeg_root, tmp_path, options, match):
    run(micro_config(jpeg_root, tmp_path / 'a', train_cfg__max_epochs=4))
    cfg = micro_config(jpeg_root, tmp_path / 'b', train_cfg__max_epochs=4, **options)
    with pytest.raises(ValueError, match=match):
        resume(cfg, tmp_path / 'a' / 'epoch_2.pth')
