# Copyright (c) the autoprog_mm authors. All rights reserved.
import autoprog_mm  # noqa: F401  (before anything that imports torchvision)

# isort: split
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from autoprog_mm.engine.optimizers.merged_constructor import merge_groups
from tests.micro import differences, load, micro_config, resume, run
from tests.test_engine.test_hooks.test_resume import SEARCH

MERGED = dict(optim_wrapper__constructor='MergedOptimWrapperConstructor')


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


@pytest.mark.parametrize('clip, fused', [
    (dict(max_norm=0.3), False), (dict(max_norm=0.3), True),
    (dict(clip_value=0.01, type='value'), True)])
def test_updates_are_those_of_single_groups(jpeg_root, tmp_path, clip, fused):
    """Bit for bit, through search and growth, with gradients clipped."""
    results = {}
    for name, options in (('single', {}), ('merged', MERGED)):
        runner = run(micro_config(
            jpeg_root, tmp_path / name, SEARCH,
            optim_wrapper__clip_grad=dict(_delete_=True, **clip),
            optim_wrapper__optimizer__fused=fused, **options))
        results[name] = load(tmp_path / name / 'epoch_8.pth')
        results[name, 'groups'] = len(runner.optim_wrapper.optimizer.param_groups)
    assert results['merged', 'groups'] < 5 < results['single', 'groups']
    for key in ('state_dict', 'online_state_dict'):
        assert differences(results['single'][key], results['merged'][key], key) == []


def test_growth_and_resume_go_on(jpeg_root, tmp_path):
    run(micro_config(jpeg_root, tmp_path / 'whole', SEARCH, **MERGED))
    resume(micro_config(jpeg_root, tmp_path / 'resumed', SEARCH, **MERGED),
           tmp_path / 'whole' / 'epoch_3.pth')
    expected, got = (load(tmp_path / name / 'epoch_8.pth') for name in ('whole', 'resumed'))
    for key in ('state_dict', 'online_state_dict', 'optimizer', 'param_schedulers'):
        assert differences(expected[key], got[key], key) == []
