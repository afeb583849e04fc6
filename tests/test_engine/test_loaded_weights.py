# Copyright (c) the autoprog_mm authors. All rights reserved.
import re
from types import SimpleNamespace

import pytest
import timm
import torch
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner
from mmpretrain.registry import MODELS

from autoprog_mm import Subnet
from autoprog_mm.engine import loaded_weights
from autoprog_mm.growth import OneShotSearch, build_schedule
from autoprog_mm.growth.operators import build_operator
from autoprog_mm.launch import build_runner
from autoprog_mm.models import ElasticDeiT
from autoprog_mm.utils import UserError
from tests.micro import STEPS, load, micro_config, run
from tests.test_engine.resuming import SEARCH, run_until
from tests.test_export.models import randomize

SEARCH_OPTIONS = {key: value for key, value in SEARCH.items() if key != 'type'}
BACKBONE = dict(arch=dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=32),
                img_size=32, patch_size=8)
QUICK = dict(train_cfg__max_epochs=4, param_scheduler__1__end=4)  # stages of one epoch
WARNING = r'MoGrow overwrites a layer when it wakes, and so 2 of the 4 layers whose weights were ' \
          r"loaded\. To keep them, set optim_wrapper.growth=dict\(type='Keep'\)"


class Quick(Hook):
    """Ends a run when it is about to take its first step."""
    priority = 'LOWEST'

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.model = runner.model
        raise InterruptedError


def begin(cfg):
    """The model with which a run begins."""
    hook = Quick()
    with pytest.raises(InterruptedError):
        run(cfg, hook)
    return hook.model


@pytest.fixture(scope='module')
def pretrained(jpeg_root, tmp_path_factory):
    """A checkpoint as stock mmengine saves it, of random weights, and its weights."""
    path = tmp_path_factory.mktemp('pretrained') / 'stock.pth'
    model = MODELS.build(micro_config(jpeg_root, '.').model)
    randomize(model)
    weights = model.state_dict()
    torch.save(dict(meta=dict(epoch=3), state_dict=weights, message_hub=dict(
        log_scalars=dict(loss=HistoryBuffer([1.], [1])))), path)
    return path, weights


@pytest.fixture(scope='module')
def early(jpeg_root, tmp_path_factory):
    """Folder with the first two stages of a run: layers 0 2, then 3 wakes, then 1."""
    folder = tmp_path_factory.mktemp('early')
    run_until(micro_config(jpeg_root, folder, **QUICK), 2 * STEPS)
    return folder


def with_init_cfg(cfg, path, where):
    if where == 'load_from':
        cfg.load_from = str(path)
    elif where == 'model':
        cfg.model.init_cfg = dict(type='Pretrained', checkpoint=str(path))
    else:
        cfg.model.backbone.init_cfg = dict(
            type='Pretrained', checkpoint=str(path), prefix='backbone.')


@pytest.mark.parametrize('where', ['load_from', 'model', 'backbone'])
def test_growth_over_loaded_weights_is_warned_of(pretrained, jpeg_root, tmp_path, capfd, where):
    path, weights = pretrained
    cfg = micro_config(jpeg_root, tmp_path)
    with_init_cfg(cfg, path, where)
    model = begin(cfg)
    assert re.search(WARNING, ''.join(capfd.readouterr()))
    for name, value in model.backbone.state_dict().items():
        assert name == 'awake_subnet' or torch.equal(value, weights[f'backbone.{name}']), name


def test_neither_is_a_fresh_run_nor_a_resumed_one(early, jpeg_root, tmp_path, capfd):
    begin(micro_config(jpeg_root, tmp_path, **QUICK))
    cfg = micro_config(jpeg_root, tmp_path, **QUICK, resume=True,
                       load_from=str(early / 'epoch_1.pth'))
    begin(cfg)
    printed = ''.join(capfd.readouterr())
    assert 'resumed epoch: 1' in printed and 'overwrites a layer' not in printed
    assert 'unfinished run' not in printed


def test_resume_with_nothing_to_resume_loads_what_the_config_says(pretrained, jpeg_root, tmp_path):
    """Best checkpoints can't be resumed from."""
    (tmp_path / 'best_top1_epoch_3.pth').touch()
    path, weights = pretrained
    runner = build_runner(micro_config(jpeg_root, tmp_path, load_from=str(path)), 'auto')
    runner.register_hook(Quick())
    with pytest.raises(InterruptedError):
        runner.train()
    assert torch.equal(runner.model.backbone.layers[0].attn.qkv.weight,
                       weights['backbone.layers.0.attn.qkv.weight'])


def check(operator='MoGrow', loaded=((0, 1, 2, 3), ), search=None, num_stages=4, **scale):
    """What is said of a run whose backbone has had these of its 4 slots awake in a checkpoint."""
    backbone = ElasticDeiT(**BACKBONE)
    full, scale = backbone.full_subnet, dict(dict(depth=.5, resolution=.5), **scale)
    stages = build_schedule(num_stages, 8, full, scale, regularization={}, full_regularization={},
                            resolution_divisor=8)
    backbone.min_depth = stages[0].subnet.depth
    backbone.loaded_slots = loaded
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loaded_weights, 'print_log', lambda text, **_: said.append(text))
        loaded_weights.check_loaded(
            SimpleNamespace(backbone=backbone, optim_wrapper=SimpleNamespace(
                growth_operator=build_operator(dict(type=operator)))), stages, search)
    return said


@pytest.mark.parametrize('operator', [
    'RandomInit', 'Stacking', 'Interpolation', 'IdentityInit', 'MoGrow'])
def test_all_other_operators_are_warned_of(operator):
    said, = check(operator)
    assert said.startswith(f'{operator} overwrites a layer when it wakes, and so 2 of the 4 layers')


def test_what_keeps_loaded_weights_is_not_warned_of():
    assert check('Keep') == check(depth=1) == check(num_stages=1) == check(loaded=None) == []
    assert check(loaded=((0, 2), )) == []  # what grows over others was not trained


class Waking(Hook):
    """Notes the weights of layers that wake, as they are then, online and of momentum."""
    priority = 'LOWEST'

    def __init__(self):
        self.seen = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        copies = [dict(runner.model.named_parameters()),
                  *(runner.optim_wrapper.momentum_weights(i) for i in range(2))]
        for layer in set(runner.model.backbone.awake_slots[0]) - self.seen.keys():
            prefix = f'backbone.layers.{layer}.'
            self.seen[layer] = [{name: value.detach().clone() for name, value in copy.items()
                                 if name.startswith(prefix)} for copy in copies]


def test_keep_wakes_every_layer_as_it_was_loaded(pretrained, jpeg_root, tmp_path):
    path, weights = pretrained
    waking = Waking()
    run(micro_config(jpeg_root, tmp_path, **QUICK, load_from=str(path), train_cfg__val_interval=4,
                     default_hooks__checkpoint__interval=4,
                     optim_wrapper__growth=dict(type='Keep')), waking)
    assert list(waking.seen) == [0, 2, 3, 1]
    for copies in waking.seen.values():
        for copy in copies:
            assert len(copy) == 12
            assert all(torch.equal(value, weights[name]) for name, value in copy.items())


# ------------------------------------------------------------ early checkpoints


def test_a_run_may_start_from_the_layers_that_it_finds_trained(early, jpeg_root, tmp_path):
    path = early / 'epoch_2.pth'
    model = begin(micro_config(jpeg_root, tmp_path, load_from=str(path)))
    assert model.backbone.awake_subnet == Subnet(2, 16)
    weights = load(path)['state_dict']
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items()
               if name != 'backbone.awake_subnet')


@pytest.mark.parametrize('options, match', [
    (dict(num_stages=1), '1 of the 4 .*begin with fewer layers'),
    (dict(depth=1), '1 of the 4 layers'),
    # Of another waking order: 0 1 2 of four, where layers 0 2 3 are trained.
    (dict(depth=.75), '1 of the 3 layers'),
    (dict(search=OneShotSearch(**SEARCH_OPTIONS)), '1 of the 4 layers.* search=None'),
    (dict(operator='Keep'),
     '1 of the 4 layers.*an operator that fills the layers that wake, not Keep'),
])
def test_untrained_layers_are_refused(options, match):
    with pytest.raises(UserError, match=f'of an unfinished run: {match}'):
        check(loaded=((0, 2, 3), ), **options)


def test_a_run_with_untrained_layers_is_refused(early, jpeg_root, tmp_path):
    cfg = micro_config(jpeg_root, tmp_path, load_from=str(early / 'epoch_2.pth'),
                       custom_hooks__0__num_stages=1)
    with pytest.raises(UserError, match='of an unfinished run: 1 of the 4'):
        run(cfg, Quick())


def test_an_early_checkpoint_in_init_cfg_does_not_hinder_a_resume(early, jpeg_root, tmp_path):
    cfg = micro_config(jpeg_root, tmp_path, **QUICK, resume=True,
                       load_from=str(early / 'epoch_2.pth'))
    cfg.model.init_cfg = dict(type='Pretrained', checkpoint=str(early / 'epoch_1.pth'))
    model = begin(cfg)
    weights = load(early / 'epoch_2.pth')['online_state_dict']
    assert model.backbone.awake_slots == ((0, 2, 3), )  # stage 2 runs what stage 1 ran
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


# ------------------------------------------------------------- others' weights


def test_a_run_starts_from_an_official_file(jpeg_root, tmp_path):
    """facebook's DeiT files: {'model': ...}, names of timm, 1000 classes."""
    theirs = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=16, depth=4, num_heads=2, mlp_ratio=2,
        num_classes=1000)
    randomize(theirs)
    torch.save(dict(model=theirs.state_dict()), tmp_path / 'deit.pth',
               _use_new_zipfile_serialization=False)
    model = begin(micro_config(jpeg_root, tmp_path, load_from=str(tmp_path / 'deit.pth')))
    assert torch.equal(model.backbone.layers[3].attn.qkv.weight, theirs.blocks[3].attn.qkv.weight)
    assert torch.equal(model.backbone.pos_embed, theirs.pos_embed)


def test_others_weights_are_refused_before_training(jpeg_root, tmp_path):
    torch.save(dict(state_dict={'conv1.weight': torch.ones(1)}), tmp_path / 'resnet.pth')
    cfg = micro_config(jpeg_root, tmp_path, load_from=str(tmp_path / 'resnet.pth'))
    with pytest.raises(UserError, match='not of this ElasticDeiT.*the weights have conv1.weight'):
        run(cfg, Quick())


def runner_to_test(jpeg_root, tmp_path, path):
    cfg = micro_config(jpeg_root, tmp_path, load_from=str(path))
    cfg.test_dataloader, cfg.test_cfg = cfg.val_dataloader, dict()
    cfg.test_evaluator = cfg.val_evaluator
    return Runner.from_cfg(cfg)


@pytest.mark.parametrize('change, match', [
    (lambda w: w.pop('head.layers.head.bias'), 'head.layers.head.bias is missing'),
    (lambda w: w.update({'head.layers.head.bias': torch.ones(9)}), r'of shape \(9,\) instead'),
])
def test_a_test_needs_the_head(pretrained, jpeg_root, tmp_path, change, match):
    """mmengine would warn, and test with one at random."""
    weights = dict(pretrained[1])
    change(weights)
    torch.save(weights, tmp_path / 'in.pth')
    with pytest.raises(UserError, match=f'checkpoint to test is of another model: .*{match}'):
        runner_to_test(jpeg_root, tmp_path, tmp_path / 'in.pth').test()


def test_what_is_of_no_part_of_the_model_does_not_hinder_a_test(pretrained, jpeg_root, tmp_path):
    """mmcv 1.x saved averages in the same dict, and torch's AveragedModel counts."""
    weights = {f'module.{name}': value for name, value in pretrained[1].items()}
    torch.save({**weights, 'n_averaged': torch.ones(1), 'ema_backbone_cls_token': torch.ones(1)},
               tmp_path / 'in.pth')
    runner_to_test(jpeg_root, tmp_path, tmp_path / 'in.pth').test()


def test_stock_checkpoints_and_timms_names_are_tested(pretrained, jpeg_root, tmp_path):
    theirs = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=16, depth=4, num_heads=2, mlp_ratio=2, num_classes=4)
    torch.save(dict(model=theirs.state_dict()), tmp_path / 'deit.pth')
    for path in (pretrained[0], tmp_path / 'deit.pth'):
        assert 'accuracy/top1' in runner_to_test(jpeg_root, tmp_path, path).test()
