# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Schedule, search, growth, resume and record of VOLO, with and without token labels."""
import pytest
import torch
from mmengine.hooks import Hook

from autoprog_mm import Subnet
from tests.micro import (
    STEPS,
    differences,
    load,
    micro_config,
    read_record,
    run,
    volo_options,
    write_label_maps,
)
from tests.test_engine.resuming import SEARCH, assert_same_state, resumed_until, run_until

# Six slots at scales of 0.5: depths 3, 4, 5, 6 and resolutions 16, 21.3, 26.7,
# 32 by a divisor of 8, worked out by hand.
STAGES = [(0, 2, 3, 16), (2, 4, 4, 24), (4, 6, 5, 24), (6, 8, 6, 32)]
# Both outlookers always run; transformers have a base of 0, then 3, 2, 1.
AWAKE = {3: ((0, 1), (0, )), 4: ((0, 1), (0, 1)), 5: ((0, 1), (0, 1, 2)), 6: ((0, 1), (0, 1, 2, 3))}


@pytest.fixture(scope='module')
def labels(jpeg_root, tmp_path_factory):
    return write_label_maps(jpeg_root, tmp_path_factory.mktemp('labels'), 4)


class Spy(Hook):
    """Notes what each step ran, and checks what is awake."""
    priority = 'LOWEST'

    def before_train(self, runner):
        self.steps = []
        self.identities = [id(param) for param in runner.model.parameters()]

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        backbone, preprocessor = runner.model.backbone, runner.model.data_preprocessor
        self.steps.append((runner.epoch, backbone.running_subnet, data_batch['inputs'].shape[-1],
                           preprocessor.resolution))
        self.statistics = backbone.patch_embed.conv[1].running_mean.clone()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        backbone, state = runner.model.backbone, runner.optim_wrapper.optimizer.state
        for group, awake, active in zip(backbone.slot_groups, backbone.awake_slots,
                                        backbone.running_slots):
            for index, slot in enumerate(group):
                for param in slot.parameters():
                    assert param.requires_grad == (index in awake)
                    assert param in state or index not in active
                    assert param not in state or index in awake
        # BatchNorm follows every step, at every resolution.
        assert not torch.equal(self.statistics, backbone.patch_embed.conv[1].running_mean)
        assert set(outputs) == {'loss', 'loss_class', 'loss_token'}

    def after_train(self, runner):
        assert self.identities == [id(param) for param in runner.model.parameters()]


def volo_config(jpeg_root, work_dir, search=None, labels=None, **options):
    return micro_config(jpeg_root, work_dir, search, **volo_options(labels), **options)


def test_manual_schedule(jpeg_root, tmp_path):
    spy = Spy()
    runner = run(volo_config(jpeg_root, tmp_path), spy)
    for begin, end, depth, resolution in STAGES:
        steps = [step[1:] for step in spy.steps if begin <= step[0] < end]
        assert steps == [(Subnet(depth, resolution), resolution, None)] * STEPS * (end - begin)
    record = read_record(tmp_path)
    assert record['model'] == 'ElasticVOLO'
    assert record['full'] == dict(depth=6, resolution=32)
    assert record['finished'] is True
    assert [(s['begin_epoch'], s['end_epoch'], s['subnet']['depth'], s['subnet']['resolution'])
            for s in record['stages']] == STAGES
    assert [s['operator'] for s in record['stages']] == [None, 'MoGrow', 'MoGrow', 'MoGrow']
    backbone = runner.model.backbone
    for depth, awake in AWAKE.items():
        assert backbone.slots_at(depth) == awake


@pytest.fixture(scope='module')
def searched(jpeg_root, labels, tmp_path_factory):
    """Folder and steps of runs through a search and a growth, with or without token labels."""
    runs = {}

    def run_of(labeled):
        if labeled not in runs:
            folder, spy = tmp_path_factory.mktemp('searched'), Spy()
            run_until(volo_config(jpeg_root, folder, SEARCH, labels if labeled else None),
                      4 * STEPS, spy)
            runs[labeled] = folder, spy.steps
        return runs[labeled]

    return run_of


@pytest.mark.parametrize('labeled', [False, True])
def test_search(searched, labeled):
    folder, steps = searched(labeled)
    stage = read_record(folder)['stages'][0]
    first = stage['search']['candidates']
    # Distinct depths 3, 4, 5, 6 (the first, the one at index 2, the last) and
    # resolutions 16, 24, 32; all pairs.
    assert {(c['depth'], c['resolution']) for c in first} == {
        (d, r) for d in (3, 5, 6) for r in (16, 24, 32)}
    during = [step for step in steps if step[0] == 0]
    assert {step[2] for step in during} == {32}  # what the pipeline delivers
    assert all(subnet.resolution == resized for _, subnet, _, resized in during)
    assert len({subnet for _, subnet, _, _ in during}) > 1
    chosen, = [c for c in first if c['chosen']]
    after = {step[1:] for step in steps if step[0] == 1}
    assert after == {(Subnet(chosen['depth'], chosen['resolution']), chosen['resolution'], None)}


def test_search_by_time(jpeg_root, labels, tmp_path):
    run_until(volo_config(jpeg_root, tmp_path, {**SEARCH, 'cost': 'time'}, labels), STEPS, Spy())
    candidates = read_record(tmp_path)['stages'][0]['search']['candidates']
    assert all(c['time'] > 0 for c in candidates) and sum(c['chosen'] for c in candidates) == 1


@pytest.mark.parametrize('labeled', [False, True])
@pytest.mark.parametrize('epoch', [1, 2, 3])
def test_resume_is_exact(searched, jpeg_root, labels, tmp_path, labeled, epoch):
    whole, _ = searched(labeled)
    resumed_until(
        volo_config(jpeg_root, tmp_path, SEARCH, labels if labeled else None),
        whole / f'epoch_{epoch}.pth', (epoch + 1) * STEPS)
    name = f'epoch_{epoch + 1}.pth'
    assert_same_state(whole / name, tmp_path / name)


def test_token_labels_follow_the_workers_and_make_a_difference(searched, jpeg_root, labels,
                                                               tmp_path):
    cfg = micro_config(jpeg_root, tmp_path, SEARCH, workers=2, **volo_options(labels))
    run_until(cfg, 2 * STEPS)
    assert_same_state(searched(True)[0] / 'epoch_2.pth', tmp_path / 'epoch_2.pth')
    assert differences(*(load(folder / 'epoch_2.pth')['state_dict']
                         for folder in (searched(False)[0], tmp_path))) != []


BROKEN = {
    'schedule that would shrink a group': (
        # Of depth 9 two slots are outlookers, of 10 four.
        lambda cfg: (cfg.model.backbone.update(arch=dict(
            layers=(4, 4, 8, 2), embed_dims=(8, 16, 16, 16), num_heads=(1, 2, 2, 2))),
            cfg.custom_hooks[0].update(num_stages=8)),
        r'cannot grow from depth 9 to 10.*\(2, 7\).*\(4, 6\).*num_stages'),
    'group that would be empty': (
        lambda cfg: cfg.custom_hooks[0].initial_scale.update(depth=0.3),
        r'depth 2.* groups of 2 and 4 slots 2 and 0 would run.*initial_scale\.depth'),
    'unknown arch': (lambda cfg: cfg.model.backbone.update(arch='d6'), r"arch.*'d1'.*'d6'"),
    'size against patch': (lambda cfg: cfg.model.backbone.update(img_size=36),
                           r'img_size.*36.*divisible by 8'),
    'other patch': (lambda cfg: cfg.model.backbone.update(patch_size=5), r'patch_size.*5'),
    'too many outlookers': (
        lambda cfg: cfg.model.backbone.arch.update(layers=(4, 1, 1, 1)),
        r'layers.*\(4, 1, 1, 1\).*2 outlookers of 7'),
    'unlike widths': (
        lambda cfg: cfg.model.backbone.arch.update(embed_dims=(8, 16, 32, 32)),
        r'as wide.*\(8, 16, 32, 32\)'),
    'negative weight': (lambda cfg: cfg.model.head.update(dense_weight=-1.), 'dense_weight.*-1'),
    'unknown target': (lambda cfg: cfg.model.head.update(class_target='map'),
                       r"class_target.*'token_label'.*'map'"),
    'target without labels': (lambda cfg: cfg.model.head.update(class_target='token_label'),
                              r'LoadTokenLabel.*TokenLabelDataPreprocessor'),
    'preprocessor without labels': (
        lambda cfg: cfg.model.data_preprocessor.update(type='TokenLabelDataPreprocessor'),
        'LoadTokenLabel.*algorithm_keys'),
    'labels without preprocessor': (
        lambda cfg: (
            cfg.train_dataloader.dataset.pipeline.insert(
                3, dict(type='LoadTokenLabel', label_root=cfg.label_root, num_classes=4)),
            cfg.train_dataloader.dataset.pipeline[-1].update(
                algorithm_keys=('token_label', 'token_label_box'))),
        'label maps.*TokenLabelDataPreprocessor'),
    'labels that are not packed': (
        lambda cfg: (
            cfg.model.data_preprocessor.update(type='TokenLabelDataPreprocessor'),
            cfg.train_dataloader.dataset.pipeline.insert(
                3, dict(type='LoadTokenLabel', label_root=cfg.label_root, num_classes=4))),
        'algorithm_keys'),
    'labels of more classes': (
        lambda cfg: (
            cfg.model.data_preprocessor.update(type='TokenLabelDataPreprocessor'),
            cfg.train_dataloader.dataset.pipeline.insert(
                3, dict(type='LoadTokenLabel', label_root=cfg.label_root, num_classes=3))),
        r'class_\d/\d+\.pt.*names classes.*has 3'),
    'no labels there': (
        lambda cfg: cfg.train_dataloader.dataset.pipeline.insert(
            3, dict(type='LoadTokenLabel', label_root='/nowhere', num_classes=4)),
        r'no label map .*/nowhere/class_\d/\d+\.pt.*generate\.py'),
}


@pytest.mark.parametrize('name', BROKEN)
def test_broken_config_gets_a_clear_error(jpeg_root, labels, tmp_path, name):
    break_it, message = BROKEN[name]
    cfg = volo_config(jpeg_root, tmp_path, label_root=str(labels))
    before = []

    class FirstStep(Hook):

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            before.append(runner.iter)

    break_it(cfg)
    with pytest.raises(ValueError, match=message):
        run(cfg, FirstStep())
    assert before == []
