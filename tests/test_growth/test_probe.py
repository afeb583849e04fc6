# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Timing steps and measuring losses, which must leave no trace."""
import pytest
import torch
import torch.nn.functional as F
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from autoprog_mm import Subnet
from autoprog_mm.growth import probe
from tests.micro import differences, micro_config, volo_options

SMALL, FULL = Subnet(2, 16), Subnet(4, 32)


@pytest.fixture(params=['deit', 'volo'])
def parts(request, scope, tmp_path):
    options = volo_options() if request.param == 'volo' else {}
    cfg = micro_config('nowhere', tmp_path, **options)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    wrapper.initialize_count_status(model, 0, 100)
    small = SMALL if request.param == 'deit' else Subnet(4, 16)
    model.backbone.min_depth = small.depth
    model.train()
    return model, wrapper, small, model.backbone.full_subnet


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


def batch(size=4, resolution=32):
    return (torch.randint(0, 256, (size, 3, resolution, resolution), dtype=torch.uint8),
            torch.arange(size) % 4)


def state(model):
    return dict(
        weights={name: tensor.clone() for name, tensor in model.state_dict().items()},
        gradients={name: p.grad.clone() for name, p in model.named_parameters()
                   if p.grad is not None},
        awake=[p.requires_grad for p in model.parameters()],
        modes=[module.training for module in model.modules()],
        subnet=(model.backbone.awake_subnet, model.backbone.running_subnet) and [
            model.backbone.awake_subnet.depth, model.backbone.running_subnet.depth])


def test_losses_are_those_of_the_network_itself(parts):
    model, wrapper, small, full = parts
    batches = [batch(4), batch(3)]
    weights = {name: p.detach() for name, p in model.named_parameters()}
    before = state(model)
    losses = probe.mean_losses(model, wrapper, batches, [small, full], weights)
    assert differences(before, state(model)) == []
    model.eval()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.train()
    for subnet, loss in zip((small, full), losses):
        with model.backbone.running(subnet), torch.no_grad():
            total = 0.
            for images, labels in batches:
                # By hand: BGR to RGB, normalised, and resized on the way.
                data = (images.flip(1).float() - 110) / 60
                if subnet.resolution != 32:
                    data = F.interpolate(data, (16, 16), mode='bilinear', align_corners=False)
                scores = model.head((model.extract_feat(data)), )
                total += float(-scores.log_softmax(1)[range(len(labels)), labels].sum())
        assert loss == pytest.approx(total / 7, rel=1e-5)


def test_batches_are_copies():
    images, labels = batch(2)
    samples = [DataSample().set_gt_label(int(label)) for label in labels]
    held = probe.labelled_batches([dict(inputs=images, data_samples=samples),
                                   dict(inputs=list(images), data_samples=samples)])
    expected = images.clone()
    images.zero_()
    for copy, classes in held:
        assert torch.equal(copy, expected) and classes.tolist() == [0, 1]


@pytest.mark.parametrize('sample', [DataSample().set_gt_label([0, 1]), DataSample()])
def test_no_single_label(sample):
    images, _ = batch(1)
    assert probe.labelled_batches([dict(inputs=images, data_samples=[sample])]) is None


def test_one_rank_without_labels_tells_all(monkeypatch):
    """Or the others would wait for it where losses are added up."""
    images, _ = batch(1)
    fine = [dict(inputs=images, data_samples=[DataSample().set_gt_label(0)])]
    assert len(probe.labelled_batches(fine)) == 1
    monkeypatch.setattr(probe, 'all_gather_object', lambda value: [value, False])
    assert probe.labelled_batches(fine) is None


def test_steps_are_timed_in_the_parts_that_they_train_in(parts):
    model, wrapper, small, full = parts
    seen = []
    model.backbone.register_forward_pre_hook(
        lambda module, args: seen.append((module.running_subnet, len(args[0]))))
    images, labels = batch(8)
    seconds = probe.time_steps(
        model, wrapper, [small, full], images.float(), labels, rounds=1,
        num_parts=lambda size, subnet: 3 if (size, subnet) == (8, full) else 1)
    turn = [(small, 8), (full, 3), (full, 3), (full, 2)]
    assert seen == turn * 2 and min(seconds) > 0
