# Copyright (c) the autoprog_mm authors. All rights reserved.
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from autoprog_mm import Subnet
from autoprog_mm.planning.memory import step_bytes
from tests.micro import micro_config


def test_step():
    """A layer of the micro network has 2224 parameters, the rest 3476."""
    init_default_scope('mmpretrain')
    model = MODELS.build(micro_config('nowhere', 'never').model)
    model.backbone.min_depth = 2
    fixed, images = {}, {}
    for depth in (4, 3, 2):
        subnet = Subnet(depth, 32)
        model.backbone.set_subnet(subnet)
        fixed[depth], images[depth] = step_bytes(model, subnet)
        more, same = step_bytes(model, subnet, copies=3)
        assert more - fixed[depth] == 2 * 4 * (3476 + 4 * 2224) and same == images[depth]
    # Of an awake layer: a gradient and two moments.
    assert fixed[4] - fixed[3] == fixed[3] - fixed[2] == 3 * 4 * 2224
    assert images[4] - images[3] == images[3] - images[2] > 0
    assert fixed[2] >= 4 * (3476 + 4 * 2224 + 3 * (3476 + 2 * 2224))
