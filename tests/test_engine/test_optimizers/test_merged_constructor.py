# Copyright (c) the autoprog_mm authors. All rights reserved.
import autoprog_mm  # noqa: F401  (before anything that imports torchvision)

# isort: split
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from autoprog_mm import Subnet
from autoprog_mm.engine.optimizers.merged_constructor import merge_groups
from tests.micro import differences, load, micro_config, resume, run
from tests.test_engine.test_hooks.test_resume import SEARCH

MERGED = dict(optim_wrapper__constructor='MergedOptimWrapperConstructor')
# Two stages of two epochs, the first of which begins with an epoch of search.
SHORT = dict(train_cfg__max_epochs=4, train_cfg__val_interval=4, custom_hooks__0__num_stages=2,
             train_dataloader__dataset__indices=24)


def test_merge_groups():
    a, b, c, d, e = (torch.nn.Parameter(torch.zeros(1)) for _ in range(5))
    groups = [dict(params=[a], lr=1.), dict(params=[b]), dict(params=[c], lr=1.),
              dict(params=[d], lr=1., weight_decay=0.), dict(params=[e])]
    merged = merge_groups(groups)
    assert [[id(p) for p in group.pop('params')] for group in merged] == [
        [id(a), id(c)], [id(b), id(e)], [id(d)]]
    assert merged == [dict(lr=1.), {}, dict(lr=1., weight_decay=0.)]
    assert [len(group['params']) for group in groups] == [1] * 5  # not changed in place


def test_few_groups_of_the_imagenet_recipe():
    init_default_scope('mmpretrain')
    cfg = Config.fromfile('configs/autoprog/deit-s_in1k.py')
    cfg.model.backbone.arch = dict(
        embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=32)
    cfg.model.backbone.img_size = 32
    cfg.model.head.in_channels = 16
    settings = dict(cfg.optim_wrapper, type='MoGrowOptimWrapper')
    settings.pop('dtype')
    model = MODELS.build(cfg.model)
    wrapper = build_optim_wrapper(model, Config(settings)._cfg_dict)
    groups = wrapper.optimizer.param_groups
    assert len(groups) <= 4
    named = {id(p): name for name, p in model.named_parameters()}
    decayed = {named[id(p)] for group in groups for p in group['params'] if group['weight_decay']}
    assert decayed == {
        name for name, p in model.named_parameters() if p.ndim > 1 and 'cls_token' not in name
        and 'pos_embed' not in name}


def test_keys_that_no_parameter_has(monkeypatch):
    log = []
    monkeypatch.setattr('autoprog_mm.engine.optimizers.merged_constructor.print_log',
                        lambda text, *_: log.append(text))
    init_default_scope('mmpretrain')
    settings = dict(
        type='OptimWrapper', constructor='MergedOptimWrapperConstructor',
        optimizer=dict(type='SGD', lr=1.),
        paramwise_cfg=dict(custom_keys={'0.weight': dict(lr_mult=2.), '.cls_tokn': dict()}))
    wrapper = build_optim_wrapper(torch.nn.Sequential(torch.nn.Linear(1, 1)), settings)
    assert sorted(group['lr'] for group in wrapper.optimizer.param_groups) == [1., 2.]
    assert len(log) == 1 and "['.cls_tokn'] is in no name of a parameter, such as '0.w" in log[0]


@pytest.mark.parametrize('clip, fused', [
    (dict(max_norm=0.3), False), (dict(max_norm=0.3), True),
    (dict(clip_value=0.01, type='value'), True)])
def test_updates_are_those_of_single_groups(tmp_path, clip, fused):
    """Bit for bit, through growth and steps of parts of what is awake, with gradients clipped."""
    init_default_scope('mmpretrain')
    cfg = micro_config('', tmp_path, optim_wrapper__optimizer__fused=fused)
    cfg.optim_wrapper.clip_grad = clip
    results = []
    for constructor in ('DefaultOptimWrapperConstructor', 'MergedOptimWrapperConstructor'):
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
        with torch.no_grad():
            for param in model.parameters():
                param.normal_(0.1, 0.3)
        backbone = model.backbone
        wrapper = build_optim_wrapper(
            model, Config(dict(cfg.optim_wrapper, constructor=constructor))._cfg_dict)
        backbone.min_depth = 2
        backbone.set_subnet(Subnet(2, 32))
        wrapper.initialize_count_status(model, 0, 10)
        for depths in ((2, 2), (4, 3, 4, 2), (3, 3)):
            (wrapper.grow if depths[0] == 4 else wrapper.shrink)(backbone, Subnet(depths[0], 32))
            for depth in depths:
                backbone.set_running(Subnet(depth, 32))
                logits = model(torch.randn(4, 3, 32, 32))
                wrapper.update_params(
                    torch.nn.functional.cross_entropy(logits, torch.arange(4)))
        results.append([len(wrapper.optimizer.param_groups), dict(model.named_parameters()),
                        wrapper.momentum_weights(0), wrapper.momentum_weights(1)])
    (single, *first), (merged, *second) = results
    assert merged < 5 < single
    assert differences(first, second) == []


def test_runs_and_resumes(jpeg_root, tmp_path):
    """With schedulers, search and growth; one that is resumed ends as one that was not stopped."""
    for name, options in (('single', {}), ('merged', MERGED)):
        run(micro_config(jpeg_root, tmp_path / name, SEARCH, **SHORT, **options))
    # The search's choice comes into force after it, and the growth.
    resume(micro_config(jpeg_root, tmp_path / 'resumed', SEARCH, **SHORT, **MERGED),
           tmp_path / 'merged' / 'epoch_1.pth')
    single, merged, resumed = (
        load(tmp_path / name / 'epoch_4.pth') for name in ('single', 'merged', 'resumed'))
    for key in ('state_dict', 'online_state_dict'):
        assert differences(single[key], merged[key], key) == []
    for key in ('state_dict', 'online_state_dict', 'optimizer', 'param_schedulers'):
        assert differences(merged[key], resumed[key], key) == []
