# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Growth without a trainer, on a backbone of a few numbers."""
import re
import textwrap

import pytest
import torch
import torch.nn as nn

from autoprog_mm.growth import (
    GrowthOperator,
    IdentityInit,
    Interpolation,
    Keep,
    MoGrow,
    RandomInit,
    Stacking,
    Subnet,
    grow,
)
from autoprog_mm.models import ElasticBackbone
from autoprog_mm.registry import GROWTH_OPERATORS


class Toy(ElasticBackbone, nn.Module):
    """Slots of a linear layer and BatchNorm; of 4 and a smallest depth of 2, they wake in the
    order 0 2, 3 1."""

    def __init__(self, slots=4, width=2):
        super().__init__()
        self.slots = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width)) for _ in range(slots))
        self.head = nn.Linear(width, 1)
        self.init_elastic(drop_path_rate=0., full_resolution=32, resolution_step=16)

    @property
    def slot_groups(self):
        return (self.slots, )

    def branch_outputs(self, slot):
        return (slot[1], )

    def flops(self, subnet):
        return float(subnet.depth)


@torch.no_grad()
def sleeping(depth=2, copies=1):
    """A toy whose slot k is filled with k + 1, in momentum copy j with 10 (j + 1) more."""
    toy = Toy()
    toy.min_depth = 2
    toy.set_subnet(Subnet(depth, 16))
    for tensor in toy.state_dict().values():
        tensor.fill_(0)
    for k, slot in enumerate(toy.slots):
        for tensor in slot.state_dict().values():
            tensor.fill_(k + 1)
    momentum = [{
        name: param.detach() + (10 * (j + 1)) for name, param in toy.named_parameters()
    } for j in range(copies)]
    return toy, momentum


def marks(weights):
    """What each slot is filled with."""
    values = []
    for k in range(4):
        value, = {v for name, tensor in weights.items() if name.startswith(f'slots.{k}.')
                  for v in tensor.flatten().tolist()}
        values.append(value)
    return values


def test_a_bare_backbone_grows():
    toy, _ = sleeping()
    before = {name: (id(param), param.data_ptr()) for name, param in toy.named_parameters()}
    woken = grow(toy, Subnet(3, 32), Interpolation())
    assert [id(slot) for slot in woken] == [id(toy.slots[3])]
    assert toy.awake_subnet == Subnet(3, 32) and toy.awake_slots == ((0, 2, 3), )
    assert marks(toy.state_dict()) == [1, 2, 3, 3]
    assert {name: (id(param), param.data_ptr()) for name, param in toy.named_parameters()} == before
    assert [slot[0].weight.requires_grad for slot in toy.slots] == [True, False, True, True]


@pytest.mark.parametrize('operator, online, copy', [
    (Interpolation(), [1, 1, 3, 3], [11, 11, 13, 13]),
    (Stacking(), [1, 3, 3, 3], [11, 13, 13, 13]),
    (Keep(), [1, 2, 3, 4], [11, 12, 13, 14]),
])
def test_buffers_go_with_the_online_weights(operator, online, copy):
    """Momentum copies have none, as validation uses those of the online weights."""
    toy, momentum = sleeping()
    grow(toy, Subnet(4, 32), operator, momentum=momentum)
    assert marks(toy.state_dict()) == online
    assert marks(momentum[0]) == copy


def test_random_init_of_buffers():
    toy, momentum = sleeping()
    grow(toy, Subnet(3, 32), RandomInit(), momentum=momentum)
    for name, tensor in Toy().slots[3][1].state_dict().items():
        assert torch.equal(toy.slots[3][1].state_dict()[name], tensor), name
    for name, param in toy.slots[3].named_parameters():
        assert torch.equal(momentum[0][f'slots.3.{name}'], param), name
    for k in (0, 1, 2):
        assert toy.slots[k][1].running_var.unique().tolist() == [k + 1]


def test_mogrow_leaves_buffers_online():
    toy, momentum = sleeping(copies=2)
    grow(toy, Subnet(3, 32), MoGrow(), momentum=momentum)
    params = dict(toy.named_parameters())
    for k, weight, buffer in ((0, 21, 1), (1, 2, 2), (2, 23, 3), (3, 23, 3)):
        assert params[f'slots.{k}.0.weight'].unique().tolist() == [weight]
        assert toy.slots[k][1].running_mean.unique().tolist() == [buffer]
    assert params['head.weight'].unique().tolist() == [20]
    assert [marks(copy) for copy in momentum] == [[11, 12, 13, 13], [21, 22, 23, 23]]


def test_identity_init_zeroes_parameters_alone():
    toy, momentum = sleeping()
    grow(toy, Subnet(3, 32), IdentityInit(), momentum=momentum)
    assert toy.slots[3][1].weight.eq(0).all() and toy.slots[3][1].running_var.eq(3).all()
    assert toy.slots[3][0].weight.eq(3).all()
    assert momentum[0]['slots.3.1.bias'].eq(0).all() and momentum[0]['slots.3.0.bias'].eq(13).all()


def test_an_operator_of_ones_own():
    """The example of the docstring, as it stands."""
    example = re.search(r'::\n\n(.*?)\n\n    ``optim', GrowthOperator.__doc__, re.S)[1]
    scope = dict(GROWTH_OPERATORS=GROWTH_OPERATORS, GrowthOperator=GrowthOperator)
    try:
        exec(textwrap.dedent(example), scope)
        toy, momentum = sleeping(copies=2)
        grow(toy, Subnet(4, 32), scope['HalfInit'](), momentum=momentum)
        assert marks(dict(toy.named_parameters())) == [1, .5, 3, 1.5]
        assert [marks(copy) for copy in momentum] == [[11, 5.5, 13, 6.5], [21, 10.5, 23, 11.5]]
    finally:
        GROWTH_OPERATORS.module_dict.pop('HalfInit', None)


@pytest.mark.parametrize('change, subnet, match', [
    (lambda toy, momentum: None, Subnet(2, 16), 'can only wake slots'),
    (lambda toy, momentum: None, Subnet(5, 16), 'depth must be between'),
    (lambda toy, momentum: None, Subnet(4, 24), 'must be divisible by 16'),
    (lambda toy, momentum: momentum.clear(), Subnet(4, 16), 'MoGrow needs a momentum copy'),
    (lambda toy, momentum: momentum[0].pop('head.bias'), Subnet(4, 16),
     r"must have all parameters.*lacks \['head\.bias'\]"),
])
def test_errors_come_before_anything_changes(change, subnet, match):
    toy, momentum = sleeping(3)
    change(toy, momentum)
    with pytest.raises(ValueError, match=match):
        grow(toy, subnet, MoGrow(), momentum=momentum)
    assert toy.awake_subnet == Subnet(3, 16)
    assert marks(toy.state_dict()) == [1, 2, 3, 4]


@pytest.mark.parametrize('other', [
    nn.Linear(2, 2, bias=False), nn.Linear(2, 1)], ids=['name', 'shape'])
def test_slots_must_be_equal(other):
    toy, _ = sleeping()
    toy.slots[0][0] = other
    with pytest.raises(ValueError, match=r'equal names and shapes.* differ in 0\.(bias|weight)'):
        grow(toy, Subnet(4, 16), Interpolation())
