# Copyright (c) the autoprog_mm authors. All rights reserved.
import autoprog_mm  # noqa: F401  (before anything that imports torchvision)

# isort: split
import pytest
import torch
from mmengine.hooks import Hook
from mmpretrain.registry import MODELS

from autoprog_mm import Subnet
from autoprog_mm.engine.micro_batches import num_parts
from autoprog_mm.planning.memory import saved_bytes
from tests.micro import micro_config, read_record, run, volo_options
from tests.test_engine.resuming import (
    EVERY_STEP,
    SEARCH,
    assert_same_state,
    resumed_until,
    run_until,
)


@pytest.mark.parametrize('batch, most, share, parts', [
    (64, 64, 1., 1), (65, 64, 1., 2), (128, 64, 1., 2), (129, 64, 1., 3), (128, 64, 0.5, 1),
    (128, 64, 0.51, 2), (192, 64, 1 / 3, 1), (5, 1, 1., 5), (5, 1, 3., 5),
])
def test_num_parts(batch, most, share, parts):
    assert num_parts(batch, most, share) == parts


class Losses(Hook):

    def __init__(self):
        self.losses, self.parts = [], []

    def before_run(self, runner):
        runner.model.double()
        runner.model.data_preprocessor.register_forward_hook(
            lambda module, args, out: {**out, 'inputs': out['inputs'].double()})

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        assert set(outputs) == {'loss'}
        self.losses.append(outputs['loss'].item())
        self.parts.append((runner.model.backbone.awake_subnet, runner.train_loop.num_parts))


def in_parts(cfg, most):
    if most is not None:
        cfg.custom_hooks.append(dict(type='MicroBatchHook', max_batch_per_step=most))
    return cfg


@pytest.mark.parametrize('accumulate', [1, 2])
def test_equals_the_whole_batch(jpeg_root, tmp_path, accumulate):
    """With mixing and augmentation, through search and growth, in float64."""
    hooks = {}
    for most in (None, 3):
        hooks[most] = Losses()
        run(in_parts(micro_config(
            jpeg_root, tmp_path / str(most), SEARCH, custom_hooks__0__num_stages=2,
            train_cfg__max_epochs=4, model__backbone__drop_path_rate=0.,
            optim_wrapper__accumulative_counts=accumulate), most), hooks[most])
    assert len(hooks[None].losses) == 24
    # Sums in another order differ in their last bits, and AdamW's division makes more of it.
    assert hooks[3].losses[:4] == pytest.approx(hooks[None].losses[:4], abs=1e-12)
    assert hooks[3].losses == pytest.approx(hooks[None].losses, abs=1e-6)
    stages = [[stage['subnet'] for stage in read_record(tmp_path / str(most))['stages']]
              for most in (None, 3)]
    assert stages[0] == stages[1]
    assert {parts for _, parts in hooks[None].parts} == {1}
    # Three of eight images fit into the full network.
    full = {parts for subnet, parts in hooks[3].parts[-12:]}
    assert full == {3} and hooks[3].parts[-1][0] == Subnet(4, 32)
    assert min(parts for _, parts in hooks[3].parts) < 3


def test_volo_in_parts_trains(jpeg_root, tmp_path):
    seen = []

    class Parts(Hook):

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            seen.append((runner.model.backbone.running_subnet, runner.train_loop.num_parts))

    run(in_parts(micro_config(
        jpeg_root, tmp_path, None, custom_hooks__0__num_stages=2, train_cfg__max_epochs=2,
        **volo_options()), 4), Parts())
    assert len(seen) == 12 and seen[-1] == (Subnet(6, 32), 2)
    assert seen[0][1] == 1


@pytest.mark.parametrize('begin', [3, 8])
def test_resumes_exactly(jpeg_root, tmp_path, begin):
    """Memory that is measured again after a resume draws no random number of a step."""
    options = dict(volo_options(), custom_hooks__0__num_stages=2, train_cfg__max_epochs=2)
    whole = in_parts(micro_config(jpeg_root, tmp_path / 'a', SEARCH, **EVERY_STEP, **options), 3)
    run_until(whole, begin + 1)
    resumed = in_parts(micro_config(jpeg_root, tmp_path / 'b', SEARCH, **EVERY_STEP, **options), 3)
    resumed_until(resumed, tmp_path / 'a' / f'iter_{begin}.pth', begin + 1)
    assert_same_state(*(tmp_path / name / f'iter_{begin + 1}.pth' for name in 'ab'))


def test_candidates_are_timed_in_parts(jpeg_root, tmp_path):
    """No step of the first search, timed or trained, is of more images than fit."""
    seen = set()

    class Sizes(Hook):

        def before_train(self, runner):
            runner.model.backbone.register_forward_pre_hook(self.note)

        def note(self, backbone, args):
            if torch.is_grad_enabled():
                seen.add((backbone.running_subnet, len(args[0])))

    run_until(in_parts(micro_config(jpeg_root, tmp_path, {**SEARCH, 'cost': 'time'}), 3), 6,
              Sizes())
    assert read_record(tmp_path)['stages'][0]['search'] is not None
    sizes = {subnet: max(n for other, n in seen if other == subnet) for subnet, _ in seen}
    assert sizes[Subnet(4, 32)] == 3 and sizes[Subnet(2, 16)] == 8


def deit(depth=4, size=32):
    return MODELS.build(dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(
            type='ElasticDeiT', arch=dict(
                embed_dims=16, num_layers=depth, num_heads=2, feedforward_channels=32),
            img_size=size, patch_size=8),
        head=dict(type='VisionTransformerClsHead', num_classes=4, in_channels=16)))


class TestSavedBytes:

    def test_grows_with_depth_and_resolution(self):
        model = deit()
        model.backbone.min_depth = 2
        sizes = {(d, r): saved_bytes(model, Subnet(d, r)) for d in (2, 3, 4) for r in (16, 32)}
        # A slot more adds the same each time; 17 tokens are 3.4 times as many as 5.
        for r in (16, 32):
            assert sizes[4, r] - sizes[3, r] == pytest.approx(sizes[3, r] - sizes[2, r], rel=0.02)
        assert (sizes[4, 32] - sizes[2, 32]) / (sizes[4, 16] - sizes[2, 16]) == \
            pytest.approx(3.4, rel=0.25)

    def test_is_what_autograd_holds(self):
        """Twice the images hold twice as much beyond what one pass holds anyway."""
        model = deit()
        held = []
        for number in (1, 3):
            images = torch.zeros(number, 3, 32, 32)
            storages = {}
            parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
            with torch.autograd.graph.saved_tensors_hooks(
                    lambda t, s=storages: s.setdefault(
                        t.untyped_storage().data_ptr(), t) is None or t, lambda t: t):
                scores = model(images)
            held.append(sum(t.untyped_storage().nbytes() for pointer, t in storages.items()
                            if pointer not in parameters))
            del scores
        mine = saved_bytes(model, Subnet(4, 32))
        assert mine == pytest.approx((held[1] - held[0]) / 2, rel=0.1)

    def test_disturbs_nothing(self):
        model = MODELS.build(dict(
            type='mmpretrain.ImageClassifier',
            backbone=dict(type='ElasticVOLO', arch=dict(
                layers=(2, 2, 1, 1), embed_dims=(8, 16, 16, 16), num_heads=(1, 2, 2, 2),
                stem_hidden_dim=8), img_size=32, patch_size=4),
            head=dict(type='VOLOHead', num_classes=4, in_channels=16)))
        model.eval()
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        assert saved_bytes(model, Subnet(6, 32)) > saved_bytes(model, Subnet(6, 16)) > 0
        assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
        assert not any(module.training for module in model.modules())
        assert model.backbone.running_subnet == Subnet(6, 32)
