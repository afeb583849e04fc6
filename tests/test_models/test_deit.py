# Copyright (c) the autoprog_mm authors. All rights reserved.
"""ElasticDeiT against mmpretrain's VisionTransformer."""
import pytest
import torch
from mmpretrain.models import VisionTransformer
from mmpretrain.registry import MODELS
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from autoprog_mm import Subnet
from autoprog_mm.models import ElasticDeiT
from tests.test_models.tiny_deit import AWAKE, drop_path_rates, randomize, tiny, tiny_cfg


def copy_layers(elastic, slots, stock):
    """Give a shallower stock network the weights of some of the elastic one's layers."""
    weights = {k: v for k, v in elastic.state_dict().items()
               if not k.startswith('layers.') and k != 'awake_subnet'}
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


def test_full_depth_is_the_stock_network():
    stock = randomize(VisionTransformer(arch='deit-tiny', img_size=64, patch_size=16), .05)
    elastic = ElasticDeiT(arch='deit-tiny', img_size=64, patch_size=16)
    elastic.eval()
    assert list(elastic.state_dict()) == list(stock.state_dict())
    elastic.load_state_dict(stock.state_dict(), strict=True)
    for resolution in (64, 48):
        image = torch.randn(1, 3, resolution, resolution)
        with torch.no_grad():
            output, = elastic(image)
            expected, = stock(image)
        assert output.shape == (1, 192)
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


def test_depth_six_of_twelve_is_a_network_of_six_layers():
    elastic = randomize(ElasticDeiT(arch='deit-tiny', img_size=64, patch_size=16), .05)
    elastic.min_depth = 6
    elastic.set_subnet(Subnet(6, 48))
    assert elastic.awake_slots == ((0, 2, 4, 6, 8, 10), )
    arch = dict(embed_dims=192, num_layers=6, num_heads=3, feedforward_channels=768)
    stock = copy_layers(elastic, (0, 2, 4, 6, 8, 10),
                        VisionTransformer(arch=arch, img_size=64, patch_size=16))
    image = torch.randn(1, 3, 48, 48)
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
    weights = elastic.state_dict()
    with pytest.raises(RuntimeError, match='Unexpected key.* "awake_subnet"'):
        fresh.load_state_dict(weights, strict=True)  # it would run untrained layers
    del weights['awake_subnet']
    fresh.load_state_dict(weights, strict=True)
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


@pytest.mark.parametrize('depth', AWAKE)
def test_drop_path_is_that_of_a_network_of_this_depth(depth):
    elastic = tiny(drop_path_rate=0.1)
    elastic.set_subnet(Subnet(depth, 32))
    stock = VisionTransformer(**tiny_cfg(depth, drop_path_rate=0.1))
    expected = drop_path_rates(stock.layers)
    assert len(expected) == 2 * depth  # attention and MLP
    assert drop_path_rates(elastic.layers[i] for i in AWAKE[depth]) == expected


def count_flops(backbone, resolution):
    """Multiply-adds as torch counts them."""
    counter = FlopCounterMode(display=False)
    # As matrix products, all of which it knows; it calls a multiply-add two operations.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        backbone(torch.zeros(1, 3, resolution, resolution))
    return counter.get_total_flops() / 2


@pytest.mark.parametrize('kwargs', [
    dict(), dict(out_type='avg_featmap', with_cls_token=False),
    dict(layer_cfgs=dict(ffn_type='swiglu_fused'))
], ids=['plain', 'no_cls_token', 'swiglu'])
def test_flops_are_those_that_torch_counts(kwargs):
    # 3 x 64 channels: a size at which SwiGLU's rounding to multiples of 8 is exact
    arch = dict(embed_dims=64, num_layers=8, num_heads=2, feedforward_channels=192)
    elastic = ElasticDeiT(**{**tiny_cfg(**kwargs), 'arch': arch})
    elastic.min_depth = 4
    for subnet in (Subnet(4, 24), Subnet(5, 32), Subnet(7, 16), Subnet(8, 24)):
        elastic.set_subnet(subnet)
        counted = count_flops(elastic, subnet.resolution)
        assert elastic.flops(subnet) == pytest.approx(counted, rel=.01), subnet


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
    assert elastic.subnet == Subnet(4, 16) and elastic.running_slots == (AWAKE[4], )


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
