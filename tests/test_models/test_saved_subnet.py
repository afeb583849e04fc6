# Copyright (c) the autoprog_mm authors. All rights reserved.
import pytest
import timm
import torch
from mmengine.model import PretrainedInit
from mmengine.runner.checkpoint import load_state_dict
from mmpretrain.registry import MODELS

from autoprog_mm import Subnet
from autoprog_mm.models import ElasticDeiT
from autoprog_mm.utils import UserError
from tests.test_export.models import deit_config, randomize, volo_config

SIZES = dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=32)


def backbone(**options):
    return ElasticDeiT(**{**dict(arch=SIZES, img_size=32, patch_size=8), **options})


def early(depth=3, min_depth=2):
    model = backbone()
    randomize(model)
    model.min_depth = min_depth
    model.set_subnet(Subnet(depth, 24))
    return model


def test_only_weights_of_which_some_slept_say_so():
    model = early()
    assert model.state_dict()['awake_subnet'].tolist() == [3, 24, 2]
    model.set_subnet(Subnet(4, 24))
    assert 'awake_subnet' not in model.state_dict()


@pytest.mark.parametrize('how', ['torch', 'mmengine'])
def test_loading_wakes_what_was_awake(how):
    source, model = early(), backbone()
    if how == 'torch':
        model.load_state_dict(source.state_dict(), strict=True)
    else:
        load_state_dict(model, source.state_dict(), strict=True)
    assert (model.awake_subnet, model.min_depth) == (Subnet(3, 24), 2)
    assert model.awake_slots == model.loaded_slots == ((0, 2, 3), )
    # Not the slots of a smallest depth of 3: 0 1 2 of four.
    other = backbone()
    other.load_state_dict(early(min_depth=3).state_dict())
    assert other.awake_slots == ((0, 1, 2), )
    # The run that goes on from here has its own waking order.
    model.wake_all()
    model.min_depth = 3
    assert model.awake_slots == ((0, 1, 2, 3), ) and model.slots_at(3) == ((0, 1, 2), )


def test_half_precision_and_averages():
    source, model = early(), backbone()
    model.load_state_dict({name: value.half() for name, value in source.state_dict().items()})
    assert model.awake_slots == ((0, 2, 3), )
    weights = source.state_dict()
    source.set_subnet(Subnet(2, 16))
    other = source.state_dict()
    with pytest.raises(UserError, match=r'depth, resolution and min_depth, but is \[2.5, 20.0, 2'):
        model.load_state_dict({name: (weights[name] + other[name]) / 2 for name in weights})


def test_full_weights_wake_what_a_load_has_put_to_sleep():
    model = backbone()
    model.load_state_dict(early().state_dict())
    model.load_state_dict(backbone().state_dict())
    assert model.awake_subnet == Subnet(4, 32) and model.loaded_slots == ((0, 1, 2, 3), )
    model.set_subnet(Subnet(2, 16))  # what is set by hand stays
    model.load_state_dict(backbone().state_dict())
    assert model.awake_subnet == Subnet(2, 16)


def test_parts_of_a_state_dict_change_nothing_else():
    model = early()
    model.load_state_dict({}, strict=False)
    MODELS.build(deit_config()).load_state_dict(
        {'head.layers.head.bias': torch.ones(4)}, strict=False)
    assert model.awake_subnet == Subnet(3, 24) and model.loaded_slots is None


@pytest.mark.parametrize('change, match', [
    (lambda w: {'layers.0.conv.weight': torch.ones(1)},
     r'not of this ElasticDeiT: of its 54 tensors they have 0, and 1 others. The model has '
     r'cls_token, pos_embed, patch_embed.projection.weight and more, the weights have '
     r'layers.0.conv.weight.$'),
    (lambda w: {f'backbone.{k}': v for k, v in w.items()}, "Set prefix='backbone.' of init_cfg"),
    (lambda w: {k: v for k, v in w.items() if 'layers.3' not in k}, 'they have 42, and 0 others'),
    (lambda w: {**w, **{f'layers.4.{i}': torch.ones(1) for i in range(12)}},
     'have 54, and 12 others. The model has nothing else, the weights have layers.4.0'),
    (lambda w: {**w, 'ln1.weight': torch.ones(8)}, r'ln1.weight is of shape \(8,\) instead of'),
    # A distilled DeiT has a token more, which mmengine would leave out with all positions.
    (lambda w: {**w, 'pos_embed': torch.ones(1, 18, 16)}, r'pos_embed is of shape \(1, 18, 16\)'),
    # Without class token, which mmpretrain has an assertion for; of another grid and distilled.
    (lambda w: {**w, 'pos_embed': torch.ones(1, 16, 16)}, 'positions .* cannot be resized'),
    (lambda w: {**w, 'pos_embed': torch.ones(1, 27, 16)}, 'positions .* cannot be resized'),
])
def test_weights_of_another_model(change, match):
    weights = backbone().state_dict()
    with pytest.raises(UserError, match=match):
        load_state_dict(backbone(), change(weights))


def test_few_differences_and_other_positions_are_taken():
    weights = backbone(img_size=64).state_dict()
    del weights['ln1.bias'], weights['ln1.weight']
    model = backbone()
    load_state_dict(model, weights)
    assert model.pos_embed.shape == (1, 17, 16) and model.loaded_slots is not None


@pytest.mark.parametrize('config', [deit_config(), volo_config()], ids=['deit', 'volo'])
def test_weights_with_the_names_of_timm(config):
    """As official DeiT files have them."""
    if config['backbone']['type'] == 'ElasticDeiT':
        theirs = timm.models.vision_transformer.VisionTransformer(
            img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, mlp_ratio=2.5,
            num_classes=4)
    else:
        theirs = timm.models.volo.VOLO(
            **config['backbone']['arch'], img_size=32, patch_size=4, num_classes=4)
    randomize(theirs)
    model, weights = MODELS.build(config), theirs.state_dict()
    load_state_dict(model, weights, strict=True)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            model.eval()(images), theirs.eval()(images), rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match='The weights are not of this .* The model has backbone.*, '
                       'the weights have model.*(cls_token|pos_embed)'):
        load_state_dict(model, {f'model.{name}': value for name, value in weights.items()})


def test_a_head_of_other_classes_is_no_mistake():
    theirs = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, mlp_ratio=2.5,
        num_classes=9).state_dict()
    model = MODELS.build(deit_config())
    load_state_dict(model, theirs)
    assert torch.equal(model.backbone.layers[1].ffn.layers[1].bias, theirs['blocks.1.mlp.fc2.bias'])


@pytest.mark.parametrize('kind', ['Pretrained', PretrainedInit])
@pytest.mark.parametrize('others', [[], [dict(type='TruncNormal', layer='Linear', std=.02)]])
def test_init_cfg_keeps_all_that_it_loads(tmp_path, kind, others):
    """mmpretrain draws positions anew, if init_cfg is a list."""
    source = early(depth=4)
    torch.save(source.state_dict(), tmp_path / 'weights.pth')
    loaded = dict(type=kind, checkpoint=str(tmp_path / 'weights.pth'))
    model = backbone(init_cfg=[*others, loaded] if others else loaded)
    model.init_weights()
    assert all(torch.equal(value, model.state_dict()[name])
               for name, value in source.state_dict().items())


def test_a_missing_file_of_init_cfg(tmp_path):
    model = backbone(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'gone.pth')))
    with pytest.raises(UserError, match="there is no file '.*gone.pth'"):
        model.init_weights()


def test_loaded_weights_are_not_initialised_away():
    """As a Runner does with a model that it gets with weights."""
    model = MODELS.build(deit_config())
    model.load_state_dict(MODELS.build(deit_config()).state_dict())
    with pytest.raises(UserError, match='Give the checkpoint as load_from to a new'):
        model.init_weights()
