# Copyright (c) the autoprog_mm authors. All rights reserved.
"""The config's ``compile``, through search and growth."""
import autoprog_mm  # noqa: F401  (before anything that imports torchvision)

# isort: split
import numpy as np
import pytest
import torch
from mmengine.hooks import Hook

from autoprog_mm import Subnet
from autoprog_mm.models import ElasticDeiT, ElasticVOLO, compiling
from tests.micro import differences, load, micro_config, read_record, run

SEARCH = dict(type='OneShotSearch', epochs=1, eval_batches=2, evals=(2, 1), cost='flops')


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


def test_one_graph_a_subnet_and_the_same_training(jpeg_root, tmp_path):
    """Through a search and a growth."""
    options = dict(
        model__backbone__drop_path_rate=0., train_cfg__max_epochs=4,
        custom_hooks__0__num_stages=2, param_scheduler__1__end=4,
        train_dataloader__dataset__indices=24, val_dataloader__dataset__indices=8)
    run(micro_config(jpeg_root, tmp_path / 'plain', SEARCH, **options))
    graphs, subnets = Graphs(), Subnets()
    torch._dynamo.utils.counters.clear()
    cfg = micro_config(jpeg_root, tmp_path / 'compiled', SEARCH, **options)
    cfg.compile = dict(backend='counted')
    cfg.default_hooks.compile = dict(type='CompileHook')
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
    assert 3 <= len(subnets.seen) <= graphs.count <= 3 * len(subnets.seen)
    expected, got = (load(tmp_path / name / 'epoch_4.pth') for name in ('plain', 'compiled'))
    assert differences(expected['state_dict'], got['state_dict']) == []
    assert read_record(tmp_path / 'compiled')['finished']


def deit():
    arch = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
    return ElasticDeiT(arch=arch, img_size=32, patch_size=8)


def volo():
    arch = dict(layers=(2, 2), embed_dims=(8, 16), num_heads=(1, 2), stem_hidden_dim=4)
    return ElasticVOLO(arch, img_size=32, patch_size=4, drop_path_rate=0.1)


def twins(build):
    backbone, twin = build(), build()
    twin.load_state_dict(backbone.state_dict())
    return backbone, twin


def test_one_graph_a_subnet_of_a_volo():
    """With MixToken and drop path, whose draws are the same."""
    graphs = Graphs()
    backbone, twin = twins(volo)
    backbone.compile_forward(backend=graphs)
    seen = set()
    for model in (backbone, twin):
        model.min_depth = 3
    for step, subnet in enumerate((Subnet(4, 32), Subnet(3, 16), Subnet(4, 32), Subnet(3, 16))):
        images = torch.randn(2, 3, subnet.resolution, subnet.resolution)
        outputs = []
        for model in (backbone, twin):
            model.set_running(subnet)
            torch.manual_seed(step)
            np.random.seed(step)
            outputs.append(model(images)[0])
        for mine, theirs in zip(*outputs):
            assert mine == theirs if isinstance(mine, float) else torch.equal(mine, theirs)
        seen.add(subnet)
        assert graphs.count == len(seen)


def test_gradients_are_the_same():
    """Those of a graph that is differentiated as a whole, as inductor does it."""
    backbone, twin = twins(deit)
    backbone.compile_forward(backend='aot_eager')
    images, weight = torch.randn(2, 3, 16, 16), torch.randn(16)
    for model in (backbone, twin):
        model.set_subnet(Subnet(1, 16))
        (model(images)[0] * weight).sum().backward()
    assert backbone._compiled is not None
    gradients = 0
    for mine, theirs in zip(backbone.parameters(), twin.parameters()):
        assert (mine.grad is None) == (theirs.grad is None)
        if mine.grad is not None:
            gradients += 1
            torch.testing.assert_close(mine.grad, theirs.grad)
    assert gradients > 10


def test_falls_back_with_a_message(monkeypatch):
    messages = []
    monkeypatch.setattr(compiling, 'print_log', lambda text, **kwargs: messages.append(text))

    def broken(graph, inputs):
        raise OSError('no compiler here')

    backbone, twin = twins(deit)
    backbone.compile_forward(backend=broken)
    expected, = twin(torch.ones(1, 3, 32, 32))
    got, = backbone(torch.ones(1, 3, 32, 32))
    assert torch.equal(expected, got)
    backbone(torch.ones(1, 3, 32, 32))
    text, = messages
    assert 'ElasticDeiT cannot be compiled here' in text and 'goes on without' in text


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
