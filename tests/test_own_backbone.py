# Copyright (c) the autoprog_mm authors. All rights reserved.
"""The example in docs/own_backbone.md does what the page says."""
import importlib
import re
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmpretrain.models import DeiT3
from mmpretrain.registry import MODELS
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from autoprog_mm import Subnet, config_path
from autoprog_mm.growth import IdentityInit, MoGrow, grow
from tests.micro import micro_config, read_record, run

PAGE = (Path(__file__).parents[1] / 'docs/own_backbone.md').read_text(encoding='utf-8')
CODE, CONFIG = re.findall(r'```python\n(.*?)```', PAGE, re.S)
ARCH = dict(embed_dims=16, num_heads=2, feedforward_channels=32)


@pytest.fixture(scope='module')
def elastic_deit3(tmp_path_factory):
    """The example, imported as the page says."""
    folder = tmp_path_factory.mktemp('example')
    (folder / 'elastic_deit3.py').write_text(CODE)
    # 'autoprog_mm::' is for packages that are installed.
    (folder / 'mine.py').write_text(
        re.sub(r"'autoprog_mm::(.*)'", lambda m: repr(config_path(m[1])), CONFIG))
    sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module('elastic_deit3')
        yield module.ElasticDeiT3
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop('elastic_deit3', None)
        MODELS.module_dict.pop('ElasticDeiT3', None)


def options(num_layers=4, **kwargs):
    return dict(arch=dict(ARCH, num_layers=num_layers), img_size=32, patch_size=8, **kwargs)


@torch.no_grad()
def randomized(backbone):
    """Random weights everywhere: what is initialised to a constant would hide mistakes."""
    torch.manual_seed(0)
    for param in backbone.parameters():
        param.normal_(0 if param.ndim > 1 else 0.3, 0.2)
    backbone.eval()  # mmpretrain's returns nothing
    return backbone


def test_is_as_short_as_the_page_says(elastic_deit3):
    lines = [line for line in CODE.splitlines() if line.strip() and line.strip()[0] != '#']
    assert len(lines) == int(re.search(r'(\d+) lines:', PAGE)[1]) < 40
    assert max(map(len, lines)) <= 100
    assert MODELS.get('ElasticDeiT3') is elastic_deit3


@pytest.mark.parametrize('kwargs', [
    dict(), dict(out_type='raw', with_cls_token=False), dict(final_norm=False),
    dict(use_layer_scale=False)
], ids=lambda kwargs: '-'.join(kwargs))
@pytest.mark.parametrize('resolution', [32, 24])
def test_full_depth_is_the_stock_network(elastic_deit3, kwargs, resolution):
    stock = randomized(DeiT3(**options(**kwargs)))
    elastic = elastic_deit3(**options(**kwargs))
    elastic.eval()
    assert list(elastic.state_dict()) == list(stock.state_dict())
    elastic.load_state_dict(stock.state_dict())
    images = torch.randn(2, 3, resolution, resolution)
    with torch.no_grad():
        assert torch.equal(elastic(images)[0], stock(images)[0])


def test_a_subnet_is_a_shallower_stock_network(elastic_deit3):
    elastic = randomized(elastic_deit3(**options()))
    elastic.min_depth = 2
    elastic.set_subnet(Subnet(3, 24))
    assert elastic.awake_slots == ((0, 2, 3), )
    weights = {k: v for k, v in elastic.state_dict().items()
               if not k.startswith('layers.') and k != 'awake_subnet'}
    for i, slot in enumerate((0, 2, 3)):
        weights.update({f'layers.{i}.{k}': v
                        for k, v in elastic.layers[slot].state_dict().items()})
    stock = DeiT3(**options(3))
    stock.eval()
    stock.load_state_dict(weights)
    images = torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        assert torch.equal(elastic(images)[0], stock(images)[0])


@pytest.mark.parametrize('subnet', [Subnet(2, 64), Subnet(3, 96), Subnet(4, 128)])
def test_flops_are_those_that_torch_counts(elastic_deit3, subnet):
    elastic = elastic_deit3(
        arch=dict(embed_dims=64, num_layers=4, num_heads=2, feedforward_channels=192),
        img_size=128, patch_size=16)
    elastic.min_depth = 2
    elastic.set_subnet(subnet)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        elastic(torch.zeros(1, 3, subnet.resolution, subnet.resolution))
    assert elastic.flops(subnet) == pytest.approx(counter.get_total_flops() / 2, rel=.01)


def test_grows_by_momentum(elastic_deit3):
    backbone = randomized(elastic_deit3(**options()))
    backbone.min_depth = 2
    backbone.set_subnet(Subnet(2, 16))
    momentum = {k: torch.randn_like(v) for k, v in backbone.named_parameters()}
    before = {k: v.clone() for k, v in momentum.items()}
    grow(backbone, Subnet(4, 32), MoGrow(), momentum=[momentum])
    for slot, source in enumerate((0, 0, 2, 2)):
        for name, value in backbone.layers[slot].named_parameters():
            assert torch.equal(momentum[f'layers.{slot}.{name}'], before[f'layers.{source}.{name}'])
            if not name.startswith('ln2'):  # which is no part of the function
                assert torch.equal(value, before[f'layers.{source}.{name}']), (slot, name)


@torch.no_grad()
def test_branches_that_end_in_zeros_are_all(elastic_deit3):
    backbone = randomized(elastic_deit3(**options()))
    backbone.min_depth = 2
    backbone.set_subnet(Subnet(2, 16))
    images = torch.randn(2, 3, 32, 32)
    before = backbone(images)[0]
    grow(backbone, Subnet(4, 32), IdentityInit())
    assert torch.allclose(backbone(images)[0], before, atol=1e-6)


class Watch(Hook):
    """Which parameters are awake, and which have changed, in each step."""

    def __init__(self):
        self.steps = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        backbone = runner.model.backbone
        self.before = {n: p.detach().clone() for n, p in backbone.named_parameters()}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        backbone = runner.model.backbone
        self.steps.append((
            backbone.awake_subnet.depth,
            {n for n, p in backbone.named_parameters() if p.requires_grad},
            {n for n, p in backbone.named_parameters() if not torch.equal(p, self.before[n])}))


def test_trains_and_grows_in_a_run(elastic_deit3, jpeg_root, tmp_path):
    cfg = micro_config(
        jpeg_root, tmp_path, train_cfg__max_epochs=2, custom_hooks__0__num_stages=2,
        model__backbone=dict(_delete_=True, type='ElasticDeiT3', drop_path_rate=0., **options()),
        train_cfg__val_interval=2, train_dataloader__dataset__indices=16)
    watch = Watch()
    run(cfg, watch)
    assert [depth for depth, _, _ in watch.steps] == [2, 2, 4, 4]
    # At first the head is zero, and so is what the backbone learns from it.
    for depth, awake, changed in watch.steps[1:]:
        # Weights and biases of a norm and four linear layers, and two scales; not of ln2.
        assert len([n for n in awake if n.startswith('layers.')]) == 12 * depth
        assert awake == changed
    stages = read_record(tmp_path)['stages']
    assert [stage['operator'] for stage in stages] == [None, 'MoGrow']


def test_the_config_of_the_page(elastic_deit3):
    cfg = Config.fromfile(Path(sys.modules['elastic_deit3'].__file__).parent / 'mine.py')
    with torch.device('meta'):
        backbone = MODELS.build(dict(cfg.model.backbone, _scope_='mmpretrain'))
    assert type(backbone) is elastic_deit3
    assert backbone.full_subnet == Subnet(12, 224)
    assert cfg.model.head.in_channels == backbone.embed_dims
