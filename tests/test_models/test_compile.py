# Copyright (c) the autoprog_mm authors. All rights reserved.
"""The config's ``compile``, through search and growth."""
import shutil

import autoprog_mm  # noqa: F401  (before anything that imports torchvision)

# isort: split
import pytest
import torch
from mmengine.hooks import Hook

from autoprog_mm import Subnet
from autoprog_mm.models import ElasticDeiT, elastic
from tests.micro import differences, load, micro_config, read_record, run, volo_options
from tests.test_engine.test_hooks.test_resume import SEARCH

OPTIONS = dict(model__backbone__drop_path_rate=0.)


class Graphs:
    """A backend that runs graphs as they are, and counts them."""

    def __init__(self):
        self.count = 0

    def __call__(self, graph, inputs):
        self.count += 1
        return graph


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    before = torch._dynamo.config.recompile_limit
    yield
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = before


class Subnets(Hook):

    def __init__(self):
        self.seen = set()

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.seen.add(runner.model.backbone.running_subnet)


@pytest.mark.parametrize('family', ['deit', 'volo'])
def test_one_graph_a_subnet_and_the_same_training(jpeg_root, tmp_path, family):
    options = dict(volo_options() if family == 'volo' else OPTIONS, train_cfg__max_epochs=4,
                   custom_hooks__0__num_stages=2, param_scheduler__1__end=4)
    run(micro_config(jpeg_root, tmp_path / 'plain', SEARCH, **options))
    graphs, subnets = Graphs(), Subnets()
    torch._dynamo.utils.counters.clear()
    cfg = micro_config(jpeg_root, tmp_path / 'compiled', SEARCH, **options)
    cfg.compile = dict(backend='counted')
    torch._dynamo.register_backend(graphs, name='counted')
    try:
        run(cfg, subnets)
    finally:
        torch._dynamo.backends.registry._BACKENDS.pop('counted', None)
        torch._dynamo.backends.registry._COMPILER_FNS.pop('counted', None)
    limits = [key for key in torch._dynamo.utils.counters['unimplemented'] if 'limit' in key]
    assert limits == []
    assert not torch._dynamo.utils.counters['graph_break']
    # What is awake is part of a graph as well, so that growth makes new ones.
    assert len(subnets.seen) <= graphs.count <= 3 * len(subnets.seen)
    expected, got = (load(tmp_path / name / 'epoch_4.pth') for name in ('plain', 'compiled'))
    assert differences(expected['state_dict'], got['state_dict']) == []
    assert read_record(tmp_path / 'compiled')['finished']


def deit():
    arch = dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=32)
    return ElasticDeiT(arch=arch, img_size=32, patch_size=8)


@pytest.mark.skipif(shutil.which('g++') is None, reason='needs a C++ compiler')
def test_inductor_gives_the_same_gradients():
    backbone = deit()
    backbone.min_depth = 2
    backbone.set_subnet(Subnet(3, 16))
    images, weight = torch.randn(2, 3, 16, 16), torch.randn(16)
    results = []
    for compiled in (False, True):
        if compiled:
            backbone.compile_forward()
        backbone.zero_grad()
        output, = backbone(images)
        (output * weight).sum().backward()
        results.append([output.detach()] + [
            p.grad.clone() for p in backbone.parameters() if p.grad is not None])
    assert backbone._compiled is not None
    assert len(results[0]) == len(results[1]) > 10
    for plain, fast in zip(*results):
        torch.testing.assert_close(
            plain, fast, rtol=1e-3, atol=1e-4 * plain.abs().max().item() + 1e-6)


def test_falls_back_with_a_message(monkeypatch):
    messages = []
    monkeypatch.setattr(elastic, 'print_log', lambda text, **kwargs: messages.append(text))

    def broken(graph, inputs):
        raise OSError('no compiler here')

    backbone = deit()
    backbone.compile_forward(backend=broken)
    expected, = deit_like(backbone)(torch.ones(1, 3, 32, 32))
    got, = backbone(torch.ones(1, 3, 32, 32))
    assert torch.equal(expected, got)
    backbone(torch.ones(1, 3, 32, 32))
    text, = messages
    assert 'ElasticDeiT cannot be compiled here' in text and 'goes on without' in text


def deit_like(backbone):
    other = deit()
    other.load_state_dict(backbone.state_dict())
    return other


def test_only_training_is_compiled():
    graphs = Graphs()
    backbone = deit()
    backbone.compile_forward(backend=graphs)
    images = torch.ones(1, 3, 32, 32)
    backbone.eval()
    backbone(images)
    backbone.train()
    with torch.no_grad():
        backbone(images)
    assert graphs.count == 0
    backbone(images)
    assert graphs.count == 1


def test_a_target_is_an_error(jpeg_root, tmp_path):
    cfg = micro_config(jpeg_root, tmp_path)
    cfg.compile = dict(target='forward')
    with pytest.raises(ValueError, match=r"compile\.target \('forward'\) is not to be set"):
        run(cfg)
