# Copyright (c) the autoprog_mm authors. All rights reserved.
import torch

from autoprog_mm.engine.checkpoint import differing_parameters


def test_differing_parameters():
    own = dict(a=torch.zeros(2), b=torch.zeros(3), c=torch.zeros(1))
    assert differing_parameters(own, dict(own)) is None
    text = differing_parameters(own, dict(a=torch.zeros(2), b=torch.zeros(3, 1), d=torch.ones(1)))
    assert text == 'c is missing, d is not in the model, b is of shape (3, 1) instead of (3,)'
    many = {f'x{i}': torch.zeros(1) for i in range(8)}
    assert differing_parameters({}, many).endswith('x4 is not in the model, and 3 keys more')
