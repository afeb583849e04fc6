# Copyright (c) the autoprog_mm authors. All rights reserved.
"""MixToken, step by step and against timm's box."""
import autoprog_mm  # noqa: F401  (before timm, which imports torchvision)

# isort: split
import random

import numpy as np
import pytest
import torch
from timm.models import volo as timm_volo

from autoprog_mm import Subnet
from autoprog_mm.models import mix_token
from autoprog_mm.models.mix_token import draw_box
from tests.test_models.micro_volo import AWAKE, MICRO, micro, timm_twin


def fixed_box(monkeypatch, share, box):
    asked = []

    def draw(height, width):
        asked.append((height, width))
        return share, box

    monkeypatch.setattr(mix_token, 'draw_box', draw)
    return asked


@pytest.mark.parametrize('batch, height, width, box, share', [
    (4, 32, 32, (1, 3, 0, 2), 0.75),
    (2, 32, 32, (0, 4, 0, 4), 0.),
    (2, 32, 32, (2, 2, 1, 3), 1.),
    (1, 24, 24, (0, 2, 1, 3), 5 / 9),
    (3, 16, 24, (0, 1, 1, 3), 2 / 3),
])
def test_mix_token_step_by_step(batch, height, width, box, share, monkeypatch):
    elastic = micro()
    elastic.set_subnet(Subnet(12, 32))
    twin = timm_twin(elastic, MICRO, AWAKE[12], (4, 8, 0, 0), (height, width)).train()
    asked = fixed_box(monkeypatch, share, box)
    images = torch.randn(batch, 3, height, width)
    elastic.train()
    output, = elastic(images)
    assert asked == [(height // 8, width // 8)]
    assert output.own_share == share

    with torch.no_grad():
        top, bottom, left, right = box
        patches = twin.patch_embed(images).permute(0, 2, 3, 1)
        mixed = patches.clone()
        for sample in range(batch):
            for row in range(2 * top, 2 * bottom):
                for column in range(2 * left, 2 * right):
                    mixed[sample, row, column] = patches[batch - 1 - sample, row, column]
        features = twin.norm(twin.forward_cls(twin.forward_tokens(mixed)))
        tokens = features[:, 1:].reshape(batch, height // 8, width // 8, 16)
        own = tokens.clone()
        for sample in range(batch):
            for row in range(top, bottom):
                for column in range(left, right):
                    own[sample, row, column] = tokens[batch - 1 - sample, row, column]
    torch.testing.assert_close(output.class_token, features[:, 0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.tokens, own, rtol=1e-5, atol=1e-5)
    assert elastic.patch_embed.conv[1].num_batches_tracked == 1


def test_tokens_come_back_to_their_sample():
    """Where no slot mixes places, MixToken moves nothing but the class token."""
    elastic = micro()
    with torch.no_grad():
        for group in elastic.slot_groups:
            for slot in group:
                for projection in elastic.branch_outputs(slot):
                    projection.weight.zero_()
                    projection.bias.zero_()
    images = torch.randn(3, 3, 32, 32)
    elastic.train()
    elastic.mix_token = False
    plain, = elastic(images)
    assert plain.own_share == 1
    elastic.mix_token = True
    shares, mixed = set(), 0
    for seed in range(8):
        np.random.seed(seed)
        output, = elastic(images)
        torch.testing.assert_close(output.tokens, plain.tokens)
        # The middle sample is its own partner.
        torch.testing.assert_close(output.class_token[1], plain.class_token[1])
        mixed += not torch.allclose(output.class_token[0], plain.class_token[0], atol=1e-3)
        shares.add(output.own_share)
    assert len(shares) > 4 and mixed >= 5


@pytest.mark.parametrize('training, mix', [(False, True), (True, False)])
def test_no_mixing(training, mix, monkeypatch):
    elastic = micro(mix_token=mix).train(training)
    monkeypatch.setattr(mix_token, 'draw_box', None)
    before = np.random.get_state()
    output, = elastic(torch.randn(2, 3, 32, 32))
    assert output.own_share == 1
    assert all(np.array_equal(a, b) for a, b in zip(before, np.random.get_state()))


@pytest.mark.parametrize('height, width', [(7, 7), (4, 6), (3, 5), (1, 1), (1, 4)])
def test_draw_box_ranges(height, width):
    np.random.seed(0)
    shares, sides = [], set()
    for _ in range(200):
        share, (top, bottom, left, right) = draw_box(height, width)
        assert 0 <= top <= bottom <= height and 0 <= left <= right <= width
        assert {type(edge) for edge in (top, bottom, left, right)} == {int}
        cells = sum(not (top <= y < bottom and left <= x < right)
                    for y in range(height) for x in range(width))
        assert share == pytest.approx(cells / (height * width))
        assert 0 <= share <= 1
        shares.append(share)
        sides.add((bottom - top, right - left))
    if min(height, width) > 2:
        assert len(sides) > 5
        assert {s[0] for s in sides} >= {0, 1, height - 1}  # any size, odd and even
    if height * width == 1:
        assert set(shares) == {1.}


def test_draw_box_is_uniform_before_the_cut():
    """Its centre is anywhere, and its uncut area has a mean of a half."""
    np.random.seed(1)
    boxes = [draw_box(101, 101)[1] for _ in range(2000)]
    uncut = [(bottom - top) * (right - left) / 101**2 for top, bottom, left, right in boxes
             if top > 0 and left > 0 and bottom < 101 and right < 101]
    assert 300 < len(uncut) < 1000
    # All quarters of the grid are as likely, up to 4 standard errors.
    for axis in (0, 2):
        centres = [(box[axis] + box[axis + 1]) / 2 for box in boxes]
        assert np.mean(centres) == pytest.approx(50.5, abs=2.5)
    # Cut or not, a box is nearly empty for one draw in a hundred.
    tiny = np.mean([(bottom - top) * (right - left) < 0.01 * 101**2
                    for top, bottom, left, right in boxes])
    assert 0.003 < tiny < 0.05


@pytest.mark.parametrize('height, width', [(14, 14), (7, 7), (5, 9)])
def test_draw_box_is_timms(height, width, monkeypatch):
    """With the same draws, it is the box of timm's ``rand_bbox``."""
    seen = set()
    for lam in (0.02, 0.13, 0.4, 0.55, 0.77, 0.93, 0.999):
        for row, column in ((0, 0), (height // 2, width - 1), (height - 1, 1), (2, 3)):
            with monkeypatch.context() as patch:
                draws = iter((row, column))
                patch.setattr(np.random, 'beta', lambda a, b, lam=lam: lam)
                patch.setattr(np.random, 'randint', lambda high, draws=draws: next(draws))
                share, box = draw_box(height, width)
            with monkeypatch.context() as patch:
                centres = iter((row, column))
                patch.setattr(torch, 'randint',
                              lambda low, high, size, c=centres: torch.tensor([next(c)]))
                x1, y1, x2, y2 = timm_volo.rand_bbox(
                    (1, 2 * height, 2 * width, 8), torch.tensor(lam), scale=2)
            assert box == (x1, x2, y1, y2)
            seen.add(box)
    assert len(seen) > 15


def test_draw_box_depends_on_numpys_seed_alone():
    first, states = [], []
    for run in range(2):
        np.random.seed(3)
        torch.manual_seed(run)
        random.seed(run)
        states.append((torch.get_rng_state(), random.getstate()))
        first.append([draw_box(14, 14) for _ in range(20)])
        assert torch.equal(torch.get_rng_state(), states[run][0])
        assert random.getstate() == states[run][1]
    assert first[0] == first[1]
    np.random.seed(4)
    assert [draw_box(14, 14) for _ in range(20)] != first[0]
