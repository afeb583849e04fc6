# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What is awake and what runs, on a DeiT; several groups of slots are in test_volo_subnets.py."""
import pytest
import torch

from autoprog_mm import Subnet
from autoprog_mm.models import ElasticDeiT
from tests.test_models.tiny_deit import AWAKE, tiny, tiny_cfg


def test_is_full_at_first():
    elastic = ElasticDeiT(**tiny_cfg())
    assert elastic.subnet == elastic.running_subnet == elastic.full_subnet == Subnet(8, 32)
    assert elastic.min_depth == 8
    assert elastic.awake_slots == elastic.running_slots == ((0, 1, 2, 3, 4, 5, 6, 7), )
    assert all(param.requires_grad for param in elastic.parameters())


@pytest.mark.parametrize('depth, resolution', [(4, 16), (5, 32), (6, 24), (7, 16), (8, 32)])
def test_awake_parameters_have_gradients_and_sleeping_ones_none(depth, resolution):
    elastic = tiny()
    # Gradients of the full network must not outlive it.
    elastic(torch.randn(2, 3, 32, 32))[0].sum().backward()
    elastic.set_subnet(Subnet(depth, resolution))
    assert elastic.awake_slots == (AWAKE[depth], )
    assert elastic.subnet == Subnet(depth, resolution)
    for index, slot in enumerate(elastic.layers):
        for param in slot.parameters():
            assert param.requires_grad == (index in AWAKE[depth])
            assert (param.grad is not None) == (index in AWAKE[depth])

    elastic.zero_grad()
    elastic(torch.randn(2, 3, resolution, resolution))[0].square().sum().backward()
    for name, param in elastic.named_parameters():
        asleep = name.startswith('layers.') and int(name.split('.')[1]) not in AWAKE[depth]
        assert param.requires_grad != asleep, name
        assert (param.grad is None) == asleep, name
        assert asleep or param.grad.abs().sum() > 0, name


def test_slots_wake_again():
    elastic = tiny()
    for depth in (4, 8, 6):
        elastic.set_subnet(Subnet(depth, 32))
        awake = [i for i, slot in enumerate(elastic.layers) if slot.ln1.weight.requires_grad]
        assert awake == list(AWAKE[depth])


def test_min_depth_sets_the_order():
    elastic = tiny(min_depth=3)
    elastic.set_subnet(Subnet(4, 32))
    assert elastic.awake_slots == ((0, 2, 5, 6), )
    assert elastic.slots_at(3) == ((0, 2, 5), )


@pytest.mark.parametrize('depth, min_depth', [(6, 4), (5, 3), (4, 4), (8, 5)])
def test_min_depth_in_either_order(depth, min_depth):
    first, last = ElasticDeiT(**tiny_cfg()), ElasticDeiT(**tiny_cfg())
    first.min_depth = min_depth
    for elastic in (first, last):
        elastic.set_subnet(Subnet(depth, 16))
    last.min_depth = min_depth
    assert first.min_depth == last.min_depth == min_depth
    assert first.awake_slots == last.awake_slots == last.running_slots
    for mine, theirs in zip(first.parameters(), last.parameters()):
        assert mine.requires_grad == theirs.requires_grad


def test_min_depth_is_the_smallest_so_far_until_it_is_set():
    elastic = ElasticDeiT(**tiny_cfg())
    elastic.set_subnet(Subnet(4, 32))
    assert elastic.min_depth == 4
    for depth in (6, 8, 5):  # all depths of a run are nested
        elastic.set_subnet(Subnet(depth, 32))
        assert elastic.min_depth == 4 and elastic.awake_slots == (AWAKE[depth], )
    # What is refused changes nothing.
    with pytest.raises(ValueError, match='resolution'):
        elastic.set_subnet(Subnet(3, 30))
    assert elastic.min_depth == 4


def test_parameters_keep_their_identity():
    elastic = tiny()
    before = {name: id(param) for name, param in elastic.named_parameters()}
    values = {name: param.clone() for name, param in elastic.named_parameters()}
    for subnet in (Subnet(4, 16), Subnet(6, 24), Subnet(8, 32), Subnet(5, 32)):
        elastic.set_subnet(subnet)
        elastic.set_running(Subnet(4, 16))
        assert {name: id(param) for name, param in elastic.named_parameters()} == before
    for name, param in elastic.named_parameters():
        assert torch.equal(param, values[name])


def test_a_part_runs():
    elastic = tiny()
    images = torch.randn(2, 3, 24, 24)
    expected = {}
    for depth in AWAKE:
        elastic.set_subnet(Subnet(depth, 24))
        expected[depth] = elastic(images)[0].detach()
    assert not any(
        torch.allclose(expected[a], expected[b]) for a in AWAKE for b in AWAKE if a < b)

    elastic.set_subnet(Subnet(7, 32))
    for depth in (4, 5, 6, 7):
        elastic.set_running(Subnet(depth, 24))
        assert elastic.running_subnet == Subnet(depth, 24)
        assert elastic.running_slots == (AWAKE[depth], )
        assert torch.equal(elastic(images)[0], expected[depth])
        # What is awake stays awake.
        assert elastic.subnet == Subnet(7, 32) and elastic.awake_slots == (AWAKE[7], )
        awake = [i for i, slot in enumerate(elastic.layers) if slot.ln1.weight.requires_grad]
        assert tuple(awake) == AWAKE[7]
    elastic.set_running(None)
    assert elastic.running_subnet == Subnet(7, 32)
    assert torch.equal(elastic(images)[0], expected[7])


def test_only_running_slots_get_gradients():
    elastic = tiny()
    elastic.set_subnet(Subnet(7, 32))
    elastic.set_running(Subnet(5, 32))
    elastic(torch.randn(2, 3, 32, 32))[0].square().sum().backward()
    for index, slot in enumerate(elastic.layers):
        for param in slot.parameters():
            assert (param.grad is not None) == (index in AWAKE[5])


def test_running_is_left_as_it_was_entered():
    elastic = tiny()
    elastic.set_subnet(Subnet(7, 32))
    with elastic.running(Subnet(6, 24)):
        assert elastic.running_slots == (AWAKE[6], )
        with elastic.running(Subnet(4, 16)):
            assert elastic.running_subnet == Subnet(4, 16)
        assert elastic.running_subnet == Subnet(6, 24) and elastic.running_slots == (AWAKE[6], )
    assert elastic.running_subnet == Subnet(7, 32) and elastic.running_slots == (AWAKE[7], )
    with pytest.raises(RuntimeError, match='stop'), elastic.running(Subnet(4, 16)):
        raise RuntimeError('stop')
    assert elastic.running_subnet == Subnet(7, 32) and elastic.running_slots == (AWAKE[7], )


def test_set_subnet_runs_all_that_is_awake():
    elastic = tiny()
    elastic.set_running(Subnet(4, 16))
    elastic.set_subnet(Subnet(6, 24))
    assert elastic.running_subnet == Subnet(6, 24) and elastic.running_slots == (AWAKE[6], )


def test_drop_path_by_hand():
    elastic = tiny(drop_path_rate=0.3)
    elastic.set_subnet(Subnet(4, 32))

    def rates():
        return [elastic.layers[slot].attn.out_drop.drop_prob for slot in elastic.running_slots[0]]

    assert elastic.drop_path_rate == 0.3
    assert rates() == pytest.approx([0, 0.1, 0.2, 0.3])
    elastic.drop_path_rate = 0.6
    assert elastic.drop_path_rate == 0.6
    assert rates() == pytest.approx([0, 0.2, 0.4, 0.6])
    elastic.set_subnet(Subnet(7, 32))
    assert rates() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    elastic.set_running(Subnet(4, 32))
    assert rates() == pytest.approx([0, 0.2, 0.4, 0.6])
    elastic.set_running(None)
    assert rates() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    elastic.drop_path_rate = 0.
    assert rates() == [0] * 7


@pytest.mark.parametrize('min_depth, match', [
    (0, r'min_depth must be an int of at least 1, but got 0'),
    (9, r'min_depth \(9\) must not exceed the depth of ElasticDeiT that is awake \(8\)'),
    (4., r'min_depth must be an int of at least 1, but got 4\.0'),
    (True, r'min_depth must be an int of at least 1, but got True'),
])
def test_min_depth_errors(min_depth, match):
    with pytest.raises(ValueError, match=match):
        ElasticDeiT(**tiny_cfg()).min_depth = min_depth


def test_min_depth_errors_in_either_order():
    elastic = ElasticDeiT(**tiny_cfg())
    elastic.min_depth = 6
    with pytest.raises(ValueError, match=r'depth must be between min_depth \(6\) .* got 4'):
        elastic.set_subnet(Subnet(4, 32))
    assert elastic.min_depth == 6 and elastic.subnet == Subnet(8, 32)
    elastic = ElasticDeiT(**tiny_cfg())
    elastic.set_subnet(Subnet(4, 32))
    with pytest.raises(ValueError, match=r'min_depth \(6\) must not exceed .* awake \(4\)'):
        elastic.min_depth = 6
    assert elastic.min_depth == 4 and elastic.awake_slots == ((0, 2, 4, 6), )


@pytest.mark.parametrize('subnet, match', [
    (Subnet(3, 32), r'depth must be between min_depth \(4\) and the full depth .*\(8\), .* got 3'),
    (Subnet(9, 32), r'depth must be between min_depth \(4\) and .* but got 9'),
    (Subnet(6, 30), r'resolution \(30\) must be divisible by 4, the token size of ElasticDeiT'),
])
def test_subnet_errors(subnet, match):
    elastic = tiny()
    for call in (elastic.set_subnet, elastic.set_running, elastic.flops, elastic.check_subnet):
        with pytest.raises(ValueError, match=match):
            call(subnet)
    assert elastic.subnet == elastic.running_subnet == Subnet(8, 32)


def test_running_errors():
    elastic = tiny()
    elastic.set_subnet(Subnet(5, 32))
    with pytest.raises(ValueError, match=r'Only depths up to 5 are awake, but got 6x32'):
        elastic.set_running(Subnet(6, 32))
    assert elastic.running_slots == (AWAKE[5], )


@pytest.mark.parametrize('rate', [-0.1, 1, 1.5])
def test_drop_path_errors(rate):
    elastic = tiny(drop_path_rate=0.2)
    match = rf'drop_path_rate must be a number in \[0, 1\), but got {rate}'
    with pytest.raises(ValueError, match=match):
        elastic.drop_path_rate = rate
    assert elastic.drop_path_rate == 0.2
