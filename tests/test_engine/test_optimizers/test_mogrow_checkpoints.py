# Copyright (c) the autoprog_mm authors. All rights reserved.
"""The state of the optimizer wrapper, out and in."""
import copy
import io

import pytest
import torch

from autoprog_mm import Subnet
from tests.micro import differences

from .test_mogrow_optim_wrapper import (
    assert_same,
    build,
    build_model,
    build_wrapper,
    momentum,
    online,
    train,
)


def saved(state):
    """What a file of it gives back, loaded without running code."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize('before_the_model', [True, False])
def test_state_round_trip(before_the_model):
    model, wrapper = build()
    train(model, wrapper)
    wrapper.grow(model.backbone, Subnet(3, 16))
    train(model, wrapper, 2, seed=1)
    checkpoint = saved(dict(model=model.state_dict(), optimizer=wrapper.state_dict()))
    copies = momentum(wrapper)

    torch.manual_seed(99)
    other = build_model()
    with torch.no_grad():
        for param in other.parameters():
            param.normal_()
    resumed = build_wrapper(
        other, model.backbone.awake_subnet.depth, initialize=not before_the_model)
    other.load_state_dict(checkpoint['model'])
    resumed.load_state_dict(checkpoint['optimizer'])
    if before_the_model:
        resumed.initialize_count_status(other, 5, 1000)

    assert differences(resumed.state_dict(), saved(wrapper.state_dict())) == []
    for mine, before in zip(momentum(resumed), copies):
        assert_same(mine, before)
    # Both go on in the same way, the warm-up included.
    for m, w in ((model, wrapper), (other, resumed)):
        train(m, w, seed=7)
        w.grow(m.backbone, Subnet(4, 16))
        train(m, w, seed=8)
    assert_same(online(other), online(model))
    assert differences(resumed.state_dict(), wrapper.state_dict()) == []


def test_loading_changes_neither_the_state_nor_what_is_loaded_later():
    model, wrapper = build()
    train(model, wrapper)
    state = saved(wrapper.state_dict())
    untouched = copy.deepcopy(state)
    for initialize in (True, False):
        other, resumed = build(initialize=initialize)
        resumed.load_state_dict(state)
        resumed.initialize_count_status(other, 1, 10)
        train(other, resumed)
        assert differences(state['momentum'], untouched['momentum']) == []
        assert state.keys() == untouched.keys()


def test_state_has_plain_names():
    model, wrapper = build(ema_decays=(0.9, 0.99, 0.999))
    train(model, wrapper, 2)
    state = wrapper.state_dict()['momentum']
    assert state['steps'] == 2 and state['decays'] == [0.9, 0.99, 0.999]
    names = [name for name, _ in model.named_parameters()]
    assert [list(copies) for copies in state['copies']] == [names] * 3


def test_load_errors():
    model, wrapper = build()
    train(model, wrapper)
    state = saved(wrapper.state_dict())
    plain = {key: value for key, value in state.items() if key != 'momentum'}
    with pytest.raises(ValueError, match=r'no momentum copies, so it is not of a MoGrowOptimWr'):
        build()[1].load_state_dict(plain)
    match = r'ema_decays is \[0\.9, 0\.99\], but the checkpoint was made with \[0\.998, 0\.9996\]'
    with pytest.raises(ValueError, match=match):
        build(ema_decays=(0.9, 0.99))[1].load_state_dict(state)
    for copies in state['momentum']['copies']:
        copies['backbone.extra'] = copies.pop('backbone.cls_token')
    match = r"momentum copies are of another model.*\['backbone\.cls_token', 'backbone\.extra'\]"
    with pytest.raises(ValueError, match=match):
        build()[1].load_state_dict(state)
