# Copyright (c) the autoprog_mm authors. All rights reserved.
import pytest
import torch
from mmcv.cnn.bricks import DropPath
from mmpretrain.models import VisionTransformer
from mmpretrain.registry import MODELS
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from autoprog_mm import Subnet
from autoprog_mm.models import ElasticDeiT

# With a smallest depth of 4, the 8 slots wake in the order 0 2 4 6, 7 5 3 1.
AWAKE = {
    4: (0, 2, 4, 6),
    5: (0, 2, 4, 6, 7),
    6: (0, 2, 4, 5, 6, 7),
    7: (0, 2, 3, 4, 5, 6, 7),
    8: (0, 1, 2, 3, 4, 5, 6, 7),
}


def tiny_cfg(num_layers=8, **kwargs):
    arch = dict(embed_dims=16, num_layers=num_layers, num_heads=2, feedforward_channels=32)
    return {**dict(arch=arch, img_size=32, patch_size=4), **kwargs}


def tiny(min_depth=4, **kwargs):
    backbone = ElasticDeiT(**tiny_cfg(**kwargs))
    backbone.min_depth = min_depth
    return randomize(backbone)


@torch.no_grad()
def randomize(model, std=0.1):
    """Random weights everywhere: what is initialised to zero would hide mistakes."""
    model.eval()  # without drop path, unless a test asks for it
    torch.manual_seed(0)
    for param in model.parameters():
        param.normal_(0 if param.ndim > 1 else 0.2, std)
    return model


def copy_layers(elastic, slots, stock):
    """Give a shallower stock network the weights of some of the elastic one's layers."""
    weights = {k: v for k, v in elastic.state_dict().items() if not k.startswith('layers.')}
    for i, slot in enumerate(slots):
        for name, value in elastic.layers[slot].state_dict().items():
            weights[f'layers.{i}.{name}'] = value
    stock.load_state_dict(weights, strict=True)
    stock.eval()
    return stock


def test_is_registered():
    backbone = MODELS.build(dict(type='ElasticDeiT', **tiny_cfg()))
    assert type(backbone) is ElasticDeiT
    assert isinstance(backbone, VisionTransformer)


# ------------------------------------------------------------- equal to stock


def test_full_depth_is_the_stock_network():
    stock = randomize(VisionTransformer(arch='deit-small', img_size=224, patch_size=16), .05)
    elastic = ElasticDeiT(arch='deit-small', img_size=224, patch_size=16)
    elastic.eval()
    assert list(elastic.state_dict()) == list(stock.state_dict())
    elastic.load_state_dict(stock.state_dict(), strict=True)
    for resolution in (224, 160):
        image = torch.randn(1, 3, resolution, resolution)
        with torch.no_grad():
            output, = elastic(image)
            expected, = stock(image)
        assert output.shape == (1, 384)
        assert torch.equal(output, expected)


@pytest.mark.parametrize('kwargs', [
    dict(),
    dict(out_type='avg_featmap', with_cls_token=False),
    dict(out_type='featmap'),
    dict(out_type='raw', final_norm=False),
    dict(pre_norm=True, layer_scale_init_value=0.1),
    dict(layer_cfgs=dict(ffn_type='swiglu_fused')),
    dict(interpolate_mode='bilinear', in_channels=1),
], ids=lambda kwargs: '-'.join(kwargs) or 'default')
@pytest.mark.parametrize('resolution', [32, 20])
def test_options_of_the_stock_network(kwargs, resolution):
    stock = randomize(VisionTransformer(**tiny_cfg(**kwargs)))
    elastic = ElasticDeiT(**tiny_cfg(**kwargs))
    elastic.eval()
    elastic.load_state_dict(stock.state_dict(), strict=True)
    images = torch.randn(2, kwargs.get('in_channels', 3), resolution, resolution)
    with torch.no_grad():
        outputs, expected = elastic(images), stock(images)
    assert len(outputs) == len(expected) == 1
    assert torch.equal(outputs[0], expected[0])


@pytest.mark.parametrize('resolution', [224, 160])
def test_depth_six_of_deit_small_is_a_network_of_six_layers(resolution):
    elastic = randomize(ElasticDeiT(arch='deit-small', img_size=224, patch_size=16), .05)
    elastic.min_depth = 6
    elastic.set_subnet(Subnet(6, resolution))
    assert elastic.awake_slots == (0, 2, 4, 6, 8, 10)
    arch = dict(embed_dims=384, num_layers=6, num_heads=6, feedforward_channels=1536)
    stock = copy_layers(elastic, (0, 2, 4, 6, 8, 10),
                        VisionTransformer(arch=arch, img_size=224, patch_size=16))
    image = torch.randn(1, 3, resolution, resolution)
    with torch.no_grad():
        assert torch.equal(elastic(image)[0], stock(image)[0])


@pytest.mark.parametrize('depth', AWAKE)
def test_every_depth_trains_like_the_stock_network(depth):
    elastic = tiny(drop_path_rate=0.4)
    elastic.set_subnet(Subnet(depth, 24))
    stock = copy_layers(elastic, AWAKE[depth],
                        VisionTransformer(**tiny_cfg(depth, drop_path_rate=0.4)))
    images = torch.randn(4, 3, 24, 24)
    outputs = []
    for model in (elastic, stock):
        model.train()
        torch.manual_seed(1)  # the same paths are dropped
        outputs.append(model(images)[0])
        outputs[-1].square().sum().backward()
    assert torch.equal(*outputs)
    for i, slot in enumerate(AWAKE[depth]):
        pairs = zip(elastic.layers[slot].parameters(), stock.layers[i].parameters())
        assert all(torch.equal(mine.grad, theirs.grad) for mine, theirs in pairs)
    assert torch.equal(elastic.pos_embed.grad, stock.pos_embed.grad)


def test_loads_strictly_both_ways_at_any_depth():
    stock = randomize(VisionTransformer(**tiny_cfg()))
    elastic = tiny()
    elastic.set_subnet(Subnet(5, 24))
    elastic.load_state_dict(stock.state_dict(), strict=True)
    assert [name for name, _ in elastic.named_parameters()] == \
        [name for name, _ in stock.named_parameters()]
    fresh = VisionTransformer(**tiny_cfg())
    fresh.load_state_dict(elastic.state_dict(), strict=True)
    for name, value in stock.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name


@pytest.mark.parametrize('height, width', [(32, 32), (4, 4), (8, 32), (36, 20), (64, 64)])
def test_any_size_that_the_patch_divides(height, width):
    elastic = tiny(out_type='featmap')
    elastic.set_subnet(Subnet(5, 32))
    with torch.no_grad():
        output, = elastic(torch.randn(2, 3, height, width))
    assert output.shape == (2, 16, height // 4, width // 4)
    assert output.isfinite().all()


def test_position_embedding_is_interpolated():
    """A constant embedding stays what it is, and a sloping one slopes the same way."""
    elastic = tiny(out_type='raw', final_norm=False, min_depth=1)
    elastic.set_subnet(Subnet(1, 32))
    with torch.no_grad():
        elastic.patch_embed.projection.weight.zero_()
        elastic.patch_embed.projection.bias.zero_()
        for projection in elastic.branch_outputs(elastic.layers[0]):
            projection.weight.zero_()
            projection.bias.zero_()
        slope = torch.linspace(0, 7, 8).repeat(8, 1)  # rises from left to right
        elastic.pos_embed[:, 1:] = slope.reshape(1, 64, 1)
        tokens = elastic(torch.zeros(1, 3, 16, 16))[0][0, 1:, 0].reshape(4, 4)
    torch.testing.assert_close(tokens, tokens[:1].expand(4, 4))
    torch.testing.assert_close(tokens[0].diff()[1:-1], torch.tensor([2.]), rtol=0.1, atol=0)
    assert tokens.mean().item() == pytest.approx(3.5, abs=1e-3)


# ------------------------------------------------------------- awake and asleep


def test_is_full_at_first():
    elastic = ElasticDeiT(**tiny_cfg())
    assert elastic.subnet == elastic.running_subnet == elastic.full_subnet == Subnet(8, 32)
    assert elastic.min_depth == 8
    assert elastic.awake_slots == elastic.running_slots == (0, 1, 2, 3, 4, 5, 6, 7)
    assert all(param.requires_grad for param in elastic.parameters())


@pytest.mark.parametrize('depth', AWAKE)
@pytest.mark.parametrize('resolution', [16, 32])
def test_awake_parameters_have_gradients_and_sleeping_ones_none(depth, resolution):
    elastic = tiny()
    # Gradients of the full network must not outlive it.
    elastic(torch.randn(2, 3, 32, 32))[0].sum().backward()
    elastic.set_subnet(Subnet(depth, resolution))
    assert elastic.awake_slots == AWAKE[depth]
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
    assert elastic.awake_slots == (0, 2, 5, 6)
    assert elastic.slots_at(3) == ((0, 2, 5), )


def test_parameters_keep_their_identity():
    elastic = tiny()
    before = {name: id(param) for name, param in elastic.named_parameters()}
    values = {name: param.clone() for name, param in elastic.named_parameters()}
    for subnet in (Subnet(4, 16), Subnet(6, 24), Subnet(8, 32), Subnet(5, 32)):
        elastic.set_subnet(subnet)
        elastic.activate(Subnet(4, 16))
        assert {name: id(param) for name, param in elastic.named_parameters()} == before
    for name, param in elastic.named_parameters():
        assert torch.equal(param, values[name])


# ----------------------------------------------------------------- activation


def test_activate_runs_a_part():
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
        elastic.activate(Subnet(depth, 24))
        assert elastic.running_subnet == Subnet(depth, 24)
        assert elastic.running_slots == AWAKE[depth]
        assert torch.equal(elastic(images)[0], expected[depth])
        # What is awake stays awake.
        assert elastic.subnet == Subnet(7, 32) and elastic.awake_slots == AWAKE[7]
        awake = [i for i, slot in enumerate(elastic.layers) if slot.ln1.weight.requires_grad]
        assert tuple(awake) == AWAKE[7]
    elastic.activate(None)
    assert elastic.running_subnet == Subnet(7, 32)
    assert torch.equal(elastic(images)[0], expected[7])


def test_only_active_slots_get_gradients():
    elastic = tiny()
    elastic.set_subnet(Subnet(7, 32))
    elastic.activate(Subnet(5, 32))
    elastic(torch.randn(2, 3, 32, 32))[0].square().sum().backward()
    for index, slot in enumerate(elastic.layers):
        for param in slot.parameters():
            assert (param.grad is not None) == (index in AWAKE[5])


def test_activated_is_left_as_it_was_entered():
    elastic = tiny()
    elastic.set_subnet(Subnet(7, 32))
    with elastic.activated(Subnet(6, 24)):
        assert elastic.running_slots == AWAKE[6]
        with elastic.activated(Subnet(4, 16)):
            assert elastic.running_subnet == Subnet(4, 16)
        assert elastic.running_subnet == Subnet(6, 24) and elastic.running_slots == AWAKE[6]
    assert elastic.running_subnet == Subnet(7, 32) and elastic.running_slots == AWAKE[7]
    with pytest.raises(RuntimeError, match='stop'), elastic.activated(Subnet(4, 16)):
        raise RuntimeError('stop')
    assert elastic.running_subnet == Subnet(7, 32) and elastic.running_slots == AWAKE[7]


def test_set_subnet_ends_an_activation():
    elastic = tiny()
    elastic.activate(Subnet(4, 16))
    elastic.set_subnet(Subnet(6, 24))
    assert elastic.running_subnet == Subnet(6, 24) and elastic.running_slots == AWAKE[6]


# ------------------------------------------------------------------ drop path


def drop_path_rates(slots):
    return [m.drop_prob for slot in slots for m in slot.modules() if isinstance(m, DropPath)]


@pytest.mark.parametrize('depth', AWAKE)
def test_drop_path_is_that_of_a_network_of_this_depth(depth):
    elastic = tiny(drop_path_rate=0.1)
    elastic.set_subnet(Subnet(depth, 32))
    stock = VisionTransformer(**tiny_cfg(depth, drop_path_rate=0.1))
    expected = drop_path_rates(stock.layers)
    assert len(expected) == 2 * depth  # attention and MLP
    assert drop_path_rates(elastic.layers[i] for i in AWAKE[depth]) == expected


def test_drop_path_by_hand():
    elastic = tiny(drop_path_rate=0.3)
    elastic.set_subnet(Subnet(4, 32))

    def rates():
        return [elastic.layers[slot].attn.out_drop.drop_prob for slot in elastic.running_slots]

    assert elastic.drop_path_rate == 0.3
    assert rates() == pytest.approx([0, 0.1, 0.2, 0.3])
    elastic.drop_path_rate = 0.6
    assert elastic.drop_path_rate == 0.6
    assert rates() == pytest.approx([0, 0.2, 0.4, 0.6])
    elastic.set_subnet(Subnet(7, 32))
    assert rates() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    elastic.activate(Subnet(4, 32))
    assert rates() == pytest.approx([0, 0.2, 0.4, 0.6])
    elastic.activate(None)
    assert rates() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    elastic.drop_path_rate = 0.
    assert rates() == [0] * 7


# ---------------------------------------------------------------------- flops


def count_flops(backbone, resolution):
    """Multiply-adds as torch counts them."""
    counter = FlopCounterMode(display=False)
    # As matrix products, all of which it knows; it calls a multiply-add two operations.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        backbone(torch.zeros(1, 3, resolution, resolution))
    return counter.get_total_flops() / 2


@pytest.mark.parametrize('subnet', [Subnet(6, 128), Subnet(8, 160), Subnet(12, 224)])
def test_flops_of_deit_tiny(subnet):
    elastic = ElasticDeiT(arch='deit-tiny', img_size=224, patch_size=16)
    elastic.min_depth = 6
    elastic.set_subnet(subnet)
    assert elastic.flops(subnet) == pytest.approx(count_flops(elastic, subnet.resolution), rel=.01)


@pytest.mark.parametrize('kwargs', [
    dict(), dict(out_type='avg_featmap', with_cls_token=False),
    dict(layer_cfgs=dict(ffn_type='swiglu_fused'))
], ids=['plain', 'no_cls_token', 'swiglu'])
@pytest.mark.parametrize('depth', AWAKE)
def test_flops_of_every_depth(kwargs, depth):
    # 3 x 64 channels: a size at which SwiGLU's rounding to multiples of 8 is exact
    arch = dict(embed_dims=64, num_layers=8, num_heads=2, feedforward_channels=192)
    elastic = ElasticDeiT(**{**tiny_cfg(**kwargs), 'arch': arch})
    elastic.min_depth = 4
    elastic.set_subnet(Subnet(depth, 24))
    assert elastic.flops(Subnet(depth, 24)) == pytest.approx(count_flops(elastic, 24), rel=.01)


@pytest.mark.parametrize('arch, published', [
    ('deit-tiny', 1.26e9), ('deit-small', 4.6e9), ('deit-base', 17.56e9)])
def test_flops_are_the_published_ones(arch, published):
    with torch.device('meta'):
        elastic = ElasticDeiT(arch=arch, img_size=224, patch_size=16)
    assert elastic.flops(Subnet(12, 224)) == pytest.approx(published, rel=0.02)


def test_flops_leave_the_backbone_as_it_is():
    elastic = tiny()
    elastic.set_subnet(Subnet(4, 16))
    assert elastic.flops(Subnet(8, 32)) > elastic.flops(Subnet(4, 16))
    assert elastic.subnet == Subnet(4, 16) and elastic.running_slots == AWAKE[4]


# --------------------------------------------------------------------- errors


@pytest.mark.parametrize('kwargs, match', [
    (dict(out_indices=[3, 7]), r'out_indices must be -1 \(the last layer\), but got \[3, 7\]'),
    (dict(out_indices=3), r'out_indices must be -1 \(the last layer\), but got \[3\]'),
    (dict(frozen_stages=2), r'frozen_stages must be -1, but got 2'),
    (dict(img_size=(32, 64)), r'img_size \(\(32, 64\)\) must be square'),
    (dict(img_size=30), r'img_size \(\(30, 30\)\) must be square and divisible'),
])
def test_build_errors(kwargs, match):
    with pytest.raises(ValueError, match=match):
        ElasticDeiT(**tiny_cfg(**kwargs))


@pytest.mark.parametrize('min_depth, match', [
    (0, r'min_depth must be an int between 1 and the full depth of ElasticDeiT \(8\), but got 0'),
    (9, r'min_depth must be an int between 1 and .* but got 9'),
    (4., r'min_depth must be an int between 1 and .* but got 4\.0'),
    (True, r'min_depth must be an int between 1 and .* but got True'),
])
def test_min_depth_errors(min_depth, match):
    with pytest.raises(ValueError, match=match):
        ElasticDeiT(**tiny_cfg()).min_depth = min_depth


def test_min_depth_is_set_before_training():
    elastic = tiny()
    elastic.set_subnet(Subnet(4, 32))
    match = r'min_depth \(6\) must not exceed the depth that runs \(4\)'
    with pytest.raises(ValueError, match=match):
        elastic.min_depth = 6
    assert elastic.min_depth == 4


@pytest.mark.parametrize('subnet, match', [
    (Subnet(3, 32), r'depth must be between min_depth \(4\) and the full depth .*\(8\), .* got 3'),
    (Subnet(9, 32), r'depth must be between min_depth \(4\) and .* but got 9'),
    (Subnet(6, 30), r'resolution \(30\) must be divisible by 4, the token size of ElasticDeiT'),
])
def test_subnet_errors(subnet, match):
    elastic = tiny()
    for call in (elastic.set_subnet, elastic.activate, elastic.flops, elastic.check_subnet):
        with pytest.raises(ValueError, match=match):
            call(subnet)
    assert elastic.subnet == elastic.running_subnet == Subnet(8, 32)


def test_activate_errors():
    elastic = tiny()
    elastic.set_subnet(Subnet(5, 32))
    with pytest.raises(ValueError, match=r'Only depths up to 5 are awake, but got Subnet\(depth=6'):
        elastic.activate(Subnet(6, 32))
    assert elastic.running_slots == AWAKE[5]


@pytest.mark.parametrize('rate', [-0.1, 1, 1.5])
def test_drop_path_errors(rate):
    elastic = tiny(drop_path_rate=0.2)
    with pytest.raises(ValueError, match=rf'drop_path_rate must be in \[0, 1\), but got {rate}'):
        elastic.drop_path_rate = rate
    assert elastic.drop_path_rate == 0.2
