# Copyright (c) the autoprog_mm authors. All rights reserved.
import random

import numpy as np
import pytest
import torch

from autoprog_mm.utils import derive_seed, seed_sample, seed_step


class TestDeriveSeed:
    # The first 8 bytes of BLAKE2b of "(0, 'step', 120, 3)", little end first,
    # halved, by a script of its own.
    SEED = 1654289757215350830

    def test_value(self):
        assert derive_seed(0, 'step', 120, 3) == self.SEED
        assert derive_seed(7) == 843011692241435484

    def test_distinct(self):
        seeds = [derive_seed(seed, 'epoch', epoch, rank, place) for seed in range(3)
                 for epoch in range(10) for rank in range(4) for place in range(50)]
        seeds += [derive_seed(seed, 'step', epoch, rank) for seed in range(3)
                  for epoch in range(10) for rank in range(4)]
        # Keys do not run into each other.
        seeds += [derive_seed(1, 23), derive_seed(12, 3), derive_seed('1', 23), derive_seed(123)]
        assert len(set(seeds)) == len(seeds) == 6124
        assert all(0 <= seed < 2**63 for seed in seeds)
        assert max(seeds) > 2**62  # all of the 63 bits are in use


def draw():
    return random.random(), np.random.rand(), torch.rand(()).item()


@pytest.mark.parametrize('seed_it', [seed_sample, seed_step])
def test_seeding_covers_all_generators(seed_it):
    seed_it(derive_seed(0))
    first = draw()
    second = draw()
    seed_it(derive_seed(0))
    assert draw() == first
    seed_it(derive_seed(1))
    other = draw()
    assert all(a != b and a != c for a, b, c in zip(first, second, other))


def test_seed_sample_leaves_devices_alone(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, 'manual_seed_all', calls.append)
    seed_sample(5)
    assert calls == []
    seed_step(5)
    assert calls == [5]


def test_undisturbed_also_by_an_error():
    import random as python

    import numpy as np
    import torch

    from autoprog_mm.utils import seed_step, undisturbed

    def draws():
        return python.random(), np.random.rand(), torch.rand(1).item()

    seed_step(7)
    expected = draws()
    seed_step(7)
    try:
        with undisturbed():
            draws()
            raise KeyError
    except KeyError:
        pass
    assert draws() == expected
