# Copyright (c) the autoprog_mm authors. All rights reserved.
import torch

from autoprog_mm.utils.ranks import fingerprint


def test_fingerprint_sees_any_bit():
    tensors = [torch.zeros(3), torch.ones(2, dtype=torch.float64), torch.zeros(2).bfloat16()]
    before = fingerprint(tensors)
    tensors[0][1] = -0.
    assert fingerprint(tensors) != before and fingerprint(tensors)[1:] == before[1:]
