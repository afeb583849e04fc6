# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What two processes do is in tests/test_tools/test_launchers.py."""
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from mmengine.hooks import SyncBuffersHook
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from autoprog_mm.engine import ElasticDistributedDataParallel, run_parts
from autoprog_mm.utils import UserError
from tests.micro import micro_config, volo_options


@pytest.fixture(autouse=True)
def one_process():
    init_default_scope('mmpretrain')
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Model(BaseModel):
    """The loss leaves out a parameter that is awake, as an auxiliary head's may be."""

    def __init__(self):
        super().__init__()
        self.used = torch.nn.Parameter(torch.ones(2))
        self.spare = torch.nn.Parameter(torch.ones(2))

    def forward(self, inputs):
        return (self.used * inputs).sum()


def two_steps(**options):
    wrapped = ElasticDistributedDataParallel(Model(), **options)
    for _ in range(2):
        wrapped(torch.tensor([1., 2.])).backward()
    return wrapped.module


def test_parameters_that_get_no_gradient():
    """What torch advises then is possible, and leaves them alone."""
    with pytest.raises(RuntimeError, match='find_unused_parameters=True'):
        two_steps()
    model = two_steps(find_unused_parameters=True)
    assert model.used.grad.tolist() == [2., 4.] and model.spare.grad is None


def test_rebuilding_keeps_the_option():
    wrapped = ElasticDistributedDataParallel(Model(), find_unused_parameters=True)
    for searching in (True, False):
        wrapped.follow((0, 1), searching)
        assert wrapped._reducing.find_unused_parameters
    wrapped = ElasticDistributedDataParallel(Model())
    for searching in (True, False):
        wrapped.follow((0, 1), searching)
        assert wrapped._reducing.find_unused_parameters is searching


def test_the_device_is_the_processs_own():
    with pytest.raises(UserError, match='device_ids .* is not to be set'):
        ElasticDistributedDataParallel(Model(), device_ids=[0])


@pytest.mark.parametrize('options, hooks, refused', [
    (volo_options(), [], True), (volo_options(), [SyncBuffersHook()], False), ({}, [], False)])
def test_statistics_of_batch_norm_are_to_be_shared(options, hooks, refused):
    """Or each rank validates another network; DeiT has none."""
    model = MODELS.build(micro_config('nowhere', 'nowhere', **options).model)
    runner = SimpleNamespace(cfg={}, model=ElasticDistributedDataParallel(model), hooks=hooks)
    with pytest.raises(UserError, match=r"Add dict\(type='SyncBuffersHook'\) to custom_hooks") \
            if refused else nullcontext():
        run_parts._check_hooks(runner)
