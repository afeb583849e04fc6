# Copyright (c) the autoprog_mm authors. All rights reserved.
import pytest

from autoprog_mm import Subnet
from autoprog_mm.growth import OneShotSearch, build_schedule
from autoprog_mm.planning import eta as progress_module
from autoprog_mm.planning.eta import Progress

SMALL, MIDDLE, FULL = Subnet(2, 100), Subnet(3, 150), Subnet(4, 200)


@pytest.fixture
def probes(monkeypatch):
    """A machine on which a step takes depth * resolution / 100 seconds."""
    calls = []

    def probe_steps(model, optim_wrapper, subnets, batch_size, rounds=2):
        calls.append((list(subnets), batch_size))
        return {s: s.depth * s.resolution / 100 for s in subnets}

    monkeypatch.setattr(progress_module, 'probe_steps', probe_steps)
    return calls


class Model:
    """Of which only the device is asked for."""

    @staticmethod
    def parameters():
        import torch
        yield torch.zeros(1)


def build(num_stages=3, **options):
    stages = build_schedule(num_stages, 6, FULL, dict(depth=0.5, resolution=0.5),
                            resolution_divisor=50)
    return Progress(stages, 20, options.pop('batch_size', 32), Model(), None, **options)


def train(progress, subnet, steps, seconds, clock=0.):
    """Steps of one length; returns the clock after them."""
    for _ in range(steps):
        clock += seconds
        progress.tick(subnet, clock)
    return clock


def test_nothing_is_said_in_the_first_steps(probes):
    progress = build()
    progress.begin_epoch()
    # The first tick sets the clock, the second ends a first measured step.
    train(progress, SMALL, 10, 1.)
    assert progress.left(0, 10, [SMALL]) is None
    assert probes == []
    progress.tick(SMALL, 11.)
    assert progress.left(0, 11, [SMALL]) is not None


def test_probed_once_and_what_steps_take_more_is_added(probes):
    progress = build()
    progress.begin_epoch()
    train(progress, SMALL, 15, 4.)  # where 2 seconds were probed
    # 9 + 20 steps of 4 s, 40 of 4.5 + 2 and 40 of 8 + 2.
    assert progress.left(0, 11, [SMALL]) == pytest.approx([29 * 4 + 40 * 6.5 + 40 * 10] * 2)
    progress.left(0, 12, [SMALL])
    assert probes == [([SMALL, MIDDLE, FULL], 32)]


def test_steps_that_take_less_are_in_proportion(probes):
    progress = build()
    progress.begin_epoch()
    train(progress, SMALL, 15, 1.)  # where 2 seconds were probed
    assert progress.left(0, 11, [SMALL]) == pytest.approx([29 * 1 + 40 * 2.25 + 40 * 4] * 2)


def test_fewer_images_are_enough_on_the_cpu(probes):
    progress = build(batch_size=64)
    progress.begin_epoch()
    train(progress, SMALL, 15, 4.)  # 2 seconds were probed with half of the images
    assert progress.left(0, 11, [SMALL]) == pytest.approx([29 * 4 + 40 * 9 + 40 * 16] * 2)
    assert probes == [([SMALL, MIDDLE, FULL], 32)]


def test_what_was_seen_stands(probes):
    """Of the subnet under way the mean of its own steps, whatever was probed."""
    progress = build()
    progress.begin_epoch()
    clock = train(progress, SMALL, 20, 4.)
    progress.begin_epoch()
    train(progress, MIDDLE, 20, 5., clock)
    # 19 steps of 4 instead of 2 and 19 of 5 instead of 4.5 seconds; the first step of the second
    # epoch took as long as any other, so epochs take nothing besides.
    more = (2 + 0.5) / 2
    assert progress.left(2, 10, [MIDDLE]) == pytest.approx([30 * 5 + 40 * (8 + more)] * 2)


def test_epochs_and_validations(probes):
    progress = build(1, val_images=64, validates=lambda epoch: epoch % 2 == 0)
    progress.begin_epoch()
    clock = train(progress, FULL, 20, 3.)
    # 40 epochs' steps less those done; two batches, a third of a step each, three times.
    assert progress.left(0, 20, [FULL]).low == pytest.approx(100 * 3 + 3 * 2 * 1.)
    progress.begin_epoch()
    clock = train(progress, FULL, 1, 13., clock)  # waits 10 s for the loader
    clock = train(progress, FULL, 19, 3., clock)
    progress.validated(4, 7.)
    assert progress.left(2, 0, [FULL]).low == pytest.approx(4 * (20 * 3 + 10) + 2 * 7.)
    assert probes == []  # there is one subnet only


def test_searches_leave_a_range(probes):
    search = OneShotSearch(epochs=1, eval_batches=2, evals=(1, 1), cost='time')
    progress = build(2, search=search)
    progress.begin_epoch()
    candidates = [Subnet(d, r) for d in (2, 4) for r in (100, 200)]
    clock = 0.
    for i in range(21):  # a second longer than probed
        clock += candidates[i % 4].depth * candidates[i % 4].resolution / 100 + 1
        progress.tick(candidates[i % 4], clock)
    low, high = progress.left(0, 20, candidates)
    # The last evaluation is done; timing takes 6 times all four, 18 s.
    assert low == pytest.approx(6 * 18 + 2 * 20 * 3 + 3 * 20 * 9)
    assert high == pytest.approx(6 * 18 + 2 * 20 * 9 + 3 * 20 * 9)
    only = progress.left(1, 0, [Subnet(2, 200)])
    assert only.low == only.high == pytest.approx(2 * 20 * 5 + 3 * 20 * 9)
