# Copyright (c) the autoprog_mm authors. All rights reserved.
"""VOLOHead against losses worked out with NumPy."""
import autoprog_mm  # noqa: F401  (before timm, which imports torchvision)

# isort: split
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from timm.models.volo import VOLO

from autoprog_mm.models import VOLOHead
from autoprog_mm.models.volo import VOLOFeatures

# Three samples of 2 x 2 tokens with 2 channels, and 3 classes.
CLASS_TOKEN = [[1., 0.], [0., 2.], [-1., 1.]]
TOKENS = [
    [[[1., 1.], [0., 1.]], [[2., 0.], [0., 0.]]],
    [[[0., -1.], [1., 0.]], [[1., 2.], [-1., 0.]]],
    [[[3., 0.], [0., 3.]], [[-2., 1.], [1., -1.]]],
]
HEAD, HEAD_BIAS = [[1., 0.], [0., 1.], [1., -1.]], [0., 0.5, -0.5]
AUX, AUX_BIAS = [[0., 1.], [2., 0.], [-1., 1.]], [0.25, 0., -0.25]
# The class token's scores, by hand.
SCORES = [[1., 0.5, 0.5], [0., 2.5, -2.5], [-1., 1.5, -2.5]]
# Those of the first sample's tokens, by hand.
AUX_SCORES = [[[1.25, 2., -0.25], [1.25, 0., 0.75]], [[0.25, 4., -2.25], [0.25, 0., -0.25]]]
LABELS = [0, 2, 1]


def head(**kwargs):
    module = VOLOHead(**{**dict(num_classes=3, in_channels=2), **kwargs})
    with torch.no_grad():
        module.head.weight.copy_(torch.tensor(HEAD))
        module.head.bias.copy_(torch.tensor(HEAD_BIAS))
        if module.aux_head is not None:
            module.aux_head.weight.copy_(torch.tensor(AUX))
            module.aux_head.bias.copy_(torch.tensor(AUX_BIAS))
    return module


def features(own_share=1.):
    return (VOLOFeatures(torch.tensor(CLASS_TOKEN), torch.tensor(TOKENS), own_share), )


def samples(scores=None, token_scores=None, class_scores=None):
    result = []
    for i, label in enumerate(LABELS):
        sample = DataSample().set_gt_label(label)
        if scores is not None:
            sample.set_gt_score(torch.tensor(scores[i]))
        if token_scores is not None:
            sample.set_field(torch.tensor(token_scores[i]), 'token_score')
        if class_scores is not None:
            sample.set_field(torch.tensor(class_scores[i]), 'token_class_score')
        result.append(sample)
    return result


def cross_entropy(scores, target):
    """Of one row of scores and one of probabilities."""
    scores = np.asarray(scores, dtype=np.float64)
    return float(-(np.asarray(target) * (scores - np.log(np.exp(scores).sum()))).sum())


def one_hot(label):
    return [float(label == i) for i in range(3)]


def aux_scores(sample, row, column):
    return np.array(AUX) @ np.array(TOKENS[sample][row][column]) + np.array(AUX_BIAS)


def mean_token_loss(target):
    """``target`` gives the target of a token by its sample, row and column."""
    return np.mean([
        cross_entropy(aux_scores(sample, row, column), target(sample, row, column))
        for sample in range(3) for row in range(2) for column in range(2)
    ])


SOFT = [[0.7, 0.2, 0.1], [0., 0.4, 0.6], [0.3, 0.3, 0.4]]


def dense_targets():
    return np.random.RandomState(0).dirichlet([1, 1, 1], (3, 2, 2)).astype(np.float32).tolist()


def test_is_registered():
    built = MODELS.build(dict(type='VOLOHead', num_classes=3, in_channels=2))
    assert type(built) is VOLOHead
    assert built.dense_weight == 0.5 and built.class_target == 'label'
    assert built.head.weight.shape == built.aux_head.weight.shape == (3, 2)


def test_scores_by_hand():
    module = head()
    assert module.head(torch.tensor(CLASS_TOKEN)).tolist() == SCORES
    assert module.aux_head(torch.tensor(TOKENS))[0].tolist() == AUX_SCORES
    assert module.pre_logits(features()).tolist() == CLASS_TOKEN
    # The best of the first sample's tokens: 1.25, 4 and 0.75.
    assert module(features())[0].tolist() == [1 + 0.625, 0.5 + 2., 0.5 + 0.375]


def test_cross_entropy_by_hand():
    """The first sample has scores 1, 0.5 and 0.5 and class 0."""
    by_hand = -np.log(np.e / (np.e + 2 * np.e**0.5))
    assert cross_entropy(SCORES[0], one_hot(0)) == pytest.approx(by_hand)


@pytest.mark.parametrize('weight', [0.5, 1., 2.])
def test_hard_labels(weight):
    losses = head(dense_weight=weight).loss(features(), samples())
    assert losses.keys() == {'loss_class', 'loss_token'}
    expected = np.mean([cross_entropy(SCORES[i], one_hot(LABELS[i])) for i in range(3)])
    assert losses['loss_class'].item() == pytest.approx(expected, rel=1e-5)
    # Without label maps, each token has the target of its own image.
    expected = mean_token_loss(lambda sample, row, column: one_hot(LABELS[sample]))
    assert losses['loss_token'].item() == pytest.approx(weight * expected, rel=1e-5)


def test_soft_labels():
    losses = head().loss(features(), samples(SOFT))
    expected = np.mean([cross_entropy(SCORES[i], SOFT[i]) for i in range(3)])
    assert losses['loss_class'].item() == pytest.approx(expected, rel=1e-5)
    expected = mean_token_loss(lambda sample, row, column: SOFT[sample])
    assert losses['loss_token'].item() == pytest.approx(0.5 * expected, rel=1e-5)


def test_integer_scores():
    """What ``to_onehot`` makes without mixing is of integers."""
    module = head()
    integers = [[int(value) for value in one_hot(label)] for label in LABELS]
    data = samples()
    for sample, row in zip(data, integers):
        sample.set_gt_score(torch.tensor(row))
    losses, expected = module.loss(features(0.75), data), module.loss(features(0.75), samples())
    for name, loss in expected.items():
        assert losses[name].item() == pytest.approx(loss.item())


@pytest.mark.parametrize('share', [0.75, 0.3, 0.])
def test_mixed_class_token(share):
    """Its target is mixed with that of the sample at the same place in the flipped batch."""
    for labels in (None, SOFT):
        targets = np.array(labels or [one_hot(label) for label in LABELS])
        losses = head().loss(features(share), samples(labels))
        expected = np.mean([
            cross_entropy(SCORES[0], share * targets[0] + (1 - share) * targets[2]),
            cross_entropy(SCORES[1], targets[1]),
            cross_entropy(SCORES[2], share * targets[2] + (1 - share) * targets[0]),
        ])
        assert losses['loss_class'].item() == pytest.approx(expected, rel=1e-5)
        # Tokens came back to their own samples.
        expected = mean_token_loss(lambda sample, row, column, t=targets: t[sample])
        assert losses['loss_token'].item() == pytest.approx(0.5 * expected, rel=1e-5)


@pytest.mark.parametrize('share', [1., 0.3])
def test_token_labels(share):
    dense = dense_targets()
    losses = head(dense_weight=0.7).loss(features(share), samples(token_scores=dense))
    targets = np.array([one_hot(label) for label in LABELS])
    expected = np.mean([
        cross_entropy(SCORES[i], share * targets[i] + (1 - share) * targets[2 - i])
        for i in range(3)
    ])
    assert losses['loss_class'].item() == pytest.approx(expected, rel=1e-5)
    expected = mean_token_loss(lambda sample, row, column: dense[sample][row][column])
    assert losses['loss_token'].item() == pytest.approx(0.7 * expected, rel=1e-5)


@pytest.mark.parametrize('share', [1., 0.3])
@pytest.mark.parametrize('weight', [0.5, 0])
def test_class_target_of_label_maps(share, weight):
    dense, target = dense_targets(), np.array(SOFT)
    module = head(class_target='token_label', dense_weight=weight)
    losses = module.loss(features(share), samples(None, dense, SOFT))
    expected = np.mean([
        cross_entropy(SCORES[i], share * target[i] + (1 - share) * target[2 - i])
        for i in range(3)
    ])
    assert losses['loss_class'].item() == pytest.approx(expected, rel=1e-5)
    if weight:
        expected = mean_token_loss(lambda sample, row, column: dense[sample][row][column])
        assert losses['loss_token'].item() == pytest.approx(weight * expected, rel=1e-5)
    else:
        assert losses.keys() == {'loss_class'}


def smoothed(target, amount=0.1):
    """Smoothed over 3 classes."""
    return (1 - amount) * np.asarray(target) + amount / 3


@pytest.mark.parametrize('share', [1., 0.75])
@pytest.mark.parametrize('num_classes', [None, 3])
def test_label_smoothing(share, num_classes):
    loss = dict(
        type='LabelSmoothLoss', label_smooth_val=0.1, mode='original', num_classes=num_classes)
    module = head(loss=loss)
    for labels in (None, SOFT):
        targets = np.array(labels or [one_hot(label) for label in LABELS])
        losses = module.loss(features(share), samples(labels))
        expected = np.mean([
            cross_entropy(SCORES[i], smoothed(share * targets[i] + (1 - share) * targets[2 - i]))
            for i in range(3)
        ])
        assert losses['loss_class'].item() == pytest.approx(expected, rel=1e-5)
        expected = mean_token_loss(lambda sample, row, column, t=targets: smoothed(t[sample]))
        assert losses['loss_token'].item() == pytest.approx(0.5 * expected, rel=1e-5)


@pytest.mark.parametrize('share', [1., 0.75])
@pytest.mark.parametrize('class_target, targets', [
    ('token_label', SOFT), ('label', [one_hot(label) for label in LABELS])])
def test_label_maps_are_smoothed_too(share, class_target, targets):
    loss = dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')
    dense, targets = dense_targets(), np.array(targets)
    losses = head(loss=loss, class_target=class_target).loss(
        features(share), samples(None, dense, SOFT))
    expected = np.mean([
        cross_entropy(SCORES[i], smoothed(share * targets[i] + (1 - share) * targets[2 - i]))
        for i in range(3)
    ])
    assert losses['loss_class'].item() == pytest.approx(expected, rel=1e-5)
    expected = mean_token_loss(lambda sample, row, column: smoothed(dense[sample][row][column]))
    assert losses['loss_token'].item() == pytest.approx(0.5 * expected, rel=1e-5)


def test_loss_weight_and_kwargs_reach_the_loss_of_label_maps():
    loss, data = dict(type='CrossEntropyLoss', use_soft=True, loss_weight=3.), samples(
        None, dense_targets(), SOFT)
    plain, heavy = (head(class_target='token_label', **more).loss(features(), data)
                    for more in ({}, dict(loss=loss)))
    for name, value in plain.items():
        assert heavy[name].item() == pytest.approx(3 * value.item())
    total = head(class_target='token_label').loss(features(), data, reduction_override='sum')
    assert total['loss_class'].item() == pytest.approx(3 * plain['loss_class'].item())
    assert total['loss_token'].item() == pytest.approx(12 * plain['loss_token'].item())


def test_targets_of_the_shipped_config():
    """What the gradient says that it trains on: the TokenLabeling release's, but for 1e-4."""
    cfg = Config.fromfile(
        Path(__file__).parents[2] / 'configs/_base_/models/volo-d1_tokenlabel.py').model.head
    module = MODELS.build(dict(cfg, in_channels=2))
    sure = torch.full((1000, ), 0.007 / 999)
    sure[7] = 0.993
    sample = DataSample()
    sample.set_field(sure, 'token_class_score')
    sample.set_field(sure.expand(2, 2, -1), 'token_score')
    for parameter in module.parameters():
        torch.nn.init.zeros_(parameter)
    losses = module.loss(
        (VOLOFeatures(torch.ones(1, 2), torch.ones(1, 2, 2, 2), 1.), ), [sample])
    (losses['loss_class'] + losses['loss_token']).backward()
    off = 0.1 / 1000
    theirs = sure * (1 - 0.1 + off) + off  # which add up to 1.0001
    for linear, weight in ((module.head, 1), (module.aux_head, 0.5)):
        # The gradient of scores is softmax less target, and all softmaxes are even.
        target = 1 / 1000 - linear.bias.grad / weight
        assert target.max().item() == pytest.approx(0.993 * 0.9 + 0.0001, abs=1e-6)  # 0.894
        assert target.sum().item() == pytest.approx(1, abs=1e-5)
        torch.testing.assert_close(target, theirs, rtol=0, atol=1.1e-4)


def test_loss_weight_and_kwargs_reach_the_loss():
    loss = dict(type='CrossEntropyLoss', use_soft=True, loss_weight=3.)
    plain, heavy = head().loss(features(), samples()), head(loss=loss).loss(features(), samples())
    for name, value in plain.items():
        assert heavy[name].item() == pytest.approx(3 * value.item())
    total = head().loss(features(), samples(), reduction_override='sum')
    assert total['loss_class'].item() == pytest.approx(3 * plain['loss_class'].item())
    assert total['loss_token'].item() == pytest.approx(12 * plain['loss_token'].item())


def test_without_dense_weight_there_is_no_classifier_of_tokens():
    module = head(dense_weight=0)
    assert module.aux_head is None
    assert sorted(module.state_dict()) == ['head.bias', 'head.weight']
    for token_scores in (None, dense_targets()):
        losses = module.loss(features(), samples(token_scores=token_scores))
        assert losses.keys() == {'loss_class'}
        expected = np.mean([cross_entropy(SCORES[i], one_hot(LABELS[i])) for i in range(3)])
        assert losses['loss_class'].item() == pytest.approx(expected, rel=1e-5)
    assert module(features()).tolist() == SCORES


def test_gradients_reach_both_classifiers():
    module = head()
    losses = module.loss(features(), samples())
    losses['loss_class'].backward()
    assert module.head.weight.grad.abs().sum() > 0 and module.aux_head.weight.grad is None
    losses['loss_token'].backward()
    assert module.aux_head.weight.grad.abs().sum() > 0


@pytest.mark.parametrize('dense_weight', [0.5, 0])
def test_predict_is_timms(dense_weight):
    """The scores are those of timm's VOLO on the same features."""
    module = head(dense_weight=dense_weight)
    twin = VOLO(
        layers=(1, 1, 1, 1), embed_dims=(2, 2, 2, 2), num_heads=(1, 1, 1, 1), img_size=32,
        num_classes=3, use_aux_head=dense_weight > 0).eval()
    for name, value in module.state_dict().items():
        twin.state_dict()[name].copy_(value)
    outputs = torch.cat([torch.tensor(CLASS_TOKEN)[:, None],
                         torch.tensor(TOKENS).flatten(1, 2)], dim=1)
    with torch.no_grad():
        expected = twin.forward_head(outputs)
        scores = module(features())
        predictions = module.predict(features(), samples())
    assert scores.tolist() == expected.tolist()
    if dense_weight == 0:
        assert scores.tolist() == SCORES
    for prediction, row, label in zip(predictions, expected, LABELS):
        torch.testing.assert_close(prediction.pred_score, row.exp() / row.exp().sum())
        assert prediction.pred_label.tolist() == [row.argmax().item()]
        assert prediction.gt_label.tolist() == [label]
    assert len(module.predict(features())) == 3


@pytest.mark.parametrize('kwargs, match', [
    (dict(dense_weight=-0.5), 'dense_weight of VOLOHead must be a number .* 0, but got -0.5'),
    (dict(class_target='teacher'), r"one of \('label', 'token_label'\), but got 'teacher'"),
])
def test_bad_arguments(kwargs, match):
    with pytest.raises(ValueError, match=match):
        head(**kwargs)


def test_class_target_needs_label_maps():
    with pytest.raises(ValueError, match="class_target='token_label' .* LoadTokenLabel"):
        head(class_target='token_label').loss(features(), samples())


def test_initial_weights():
    module = VOLOHead(num_classes=100, in_channels=64)
    module.init_weights()
    for linear in (module.head, module.aux_head):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert linear.bias.eq(0).all()
    assert not torch.equal(module.head.weight, module.aux_head.weight)


def test_bfloat16():
    """Under autocast, targets stay exact and the losses are those of float32, nearly."""
    module = head()
    dense = dense_targets()
    expected = module.loss(features(0.3), samples(token_scores=dense))
    with torch.autocast('cpu', torch.bfloat16):
        losses = module.loss(features(0.3), samples(token_scores=dense))
    for name, loss in expected.items():
        assert losses[name].dtype == torch.float32
        assert losses[name].item() == pytest.approx(loss.item(), rel=0.02)
