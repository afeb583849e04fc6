# Copyright (c) the autoprog_mm authors. All rights reserved.
"""BatchNorm of the stem in training, and what a search sees of it."""
import copy

import numpy as np
import pytest
import torch
from mmpretrain.registry import OPTIM_WRAPPERS

from autoprog_mm import Subnet
from autoprog_mm.growth import OneShotSearch
from autoprog_mm.models import mix_token
from tests.test_models.micro_volo import (
    AWAKE,
    MICRO,
    classifier,
    labelled,
    randomize,
    timm_twin,
)


def batch_norms(model):
    return [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]


def buffers(model):
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def search_of(model, candidates=((9, 16), (9, 32), (12, 24), (15, 32))):
    wrapper = OPTIM_WRAPPERS.build(
        dict(
            type='MoGrowOptimWrapper',
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            growth=dict(type='Interpolation')))
    model.backbone.set_subnet(Subnet(15, 32))
    wrapper.initialize_count_status(model, 0, 10)
    generator = torch.Generator().manual_seed(5)
    for value in wrapper.momentum_weights(0).values():  # unlike the online weights
        value.add_(0.1 * torch.randn(value.shape, generator=generator))
    search = OneShotSearch(epochs=1, eval_batches=2, cost='time')
    search.begin([Subnet(*candidate) for candidate in candidates])
    search.hold_batches(lambda number: [labelled(4, 0), labelled(3, 1)])
    return search, wrapper


def poison(model):
    for norm in batch_norms(model):
        norm.running_mean.fill_(1e4)
        norm.running_var.fill_(1e8)


@pytest.mark.parametrize('what', ['evaluate', 'decide'])
def test_search_keeps_batch_norm(what):
    model = randomize(classifier()).train()
    search, wrapper = search_of(model)
    assert len(batch_norms(model)) == 3
    before = buffers(model)
    modes = [module.training for module in model.modules()]
    search.losses = [[1.]] * 4 if what == 'decide' else search.losses
    getattr(search, what)(model, wrapper)
    after = buffers(model)
    assert {'backbone.patch_embed.conv.1.num_batches_tracked',
            'backbone.patch_embed.conv.7.running_var'} <= after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
    assert [module.training for module in model.modules()] == modes
    assert all(param.grad is None for param in model.parameters())
    assert model.backbone.running_subnet == Subnet(15, 32)


def test_search_scores_with_batch_statistics_and_without_mixing(monkeypatch):
    """The losses are those of timm networks of the candidates' own depths."""
    model = randomize(classifier(drop_path_rate=0.9)).train()
    search, wrapper = search_of(model)
    weights = wrapper.momentum_weights(0)
    online = copy.deepcopy(model.state_dict())

    expected = []
    momentum = copy.deepcopy(model)
    momentum.load_state_dict({**online, **weights})
    for candidate in search.candidates:
        counts = [len(slots) for slots in AWAKE[candidate.depth]]
        twin = timm_twin(momentum.backbone, MICRO, AWAKE[candidate.depth],
                         (counts[0], counts[1], 0, 0), candidate.resolution, head=momentum.head)
        for norm in batch_norms(twin):
            norm.train()
        total, number = 0., 0
        for batch in (labelled(4, 0), labelled(3, 1)):
            images = (batch['inputs'].float() - 110) / 60
            if candidate.resolution != 32:
                images = torch.nn.functional.interpolate(
                    images, (candidate.resolution, ) * 2, mode='bilinear')
            with torch.no_grad():
                logits = twin(images).double().numpy()
            for row, sample in zip(logits, batch['data_samples']):
                total += np.log(np.exp(row).sum()) - row[sample.gt_label.item()]
                number += 1
        assert number == 7
        expected.append(total / number)
    assert len({round(loss, 3) for loss in expected}) == 4

    with monkeypatch.context() as patch:
        patch.setattr(mix_token, 'draw_box', None)  # nothing may be mixed
        search.evaluate(model, wrapper)
    assert [losses[0] for losses in search.losses] == pytest.approx(expected, abs=1e-4)

    # They depend on neither the statistics so far, nor on a seed.
    poison(model)
    np.random.seed(7)
    torch.manual_seed(7)
    search.evaluate(model, wrapper)
    assert all(first == second for first, second in search.losses)
    for name, value in model.named_parameters():
        assert torch.equal(value, online[name]), name


def test_training_updates_batch_norm_at_every_resolution():
    model = classifier().train()
    wrapper = OPTIM_WRAPPERS.build(
        dict(type='MoGrowOptimWrapper', optimizer=torch.optim.SGD(model.parameters(), lr=0.01)))
    wrapper.initialize_count_status(model, 0, 10)
    means = []
    for step, (depth, resolution) in enumerate([(9, 16), (12, 24), (18, 32)]):
        model.backbone.set_subnet(Subnet(depth, resolution))
        model.data_preprocessor.resolution = resolution
        logs = model.train_step(labelled(4, step), wrapper)
        assert np.isfinite(logs['loss'].item())
        assert logs['loss'].item() == pytest.approx(
            logs['loss_class'].item() + logs['loss_token'].item())
        assert [norm.num_batches_tracked.item() for norm in batch_norms(model)] == [step + 1] * 3
        means.append([norm.running_mean.clone() for norm in batch_norms(model)])
    for norm in range(3):
        assert means[0][norm].abs().max() > 0
        assert not torch.equal(means[0][norm], means[1][norm])
        assert not torch.equal(means[1][norm], means[2][norm])


def test_first_statistics_by_hand():
    """One training step moves the first mean by a tenth of the batch's own."""
    model = classifier().train()
    data = model.data_preprocessor(labelled(), training=True)
    with torch.no_grad():
        stem = model.backbone.patch_embed.conv[0](data['inputs'])
    model(**data, mode='loss')
    torch.testing.assert_close(
        model.backbone.patch_embed.conv[1].running_mean, 0.1 * stem.mean((0, 2, 3)))
