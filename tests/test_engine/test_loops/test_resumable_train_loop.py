# Copyright (c) the autoprog_mm authors. All rights reserved.
"""A run that goes on in the middle of an epoch ends as one that never stopped."""
import pytest
from mmcv.transforms import LoadImageFromFile
from mmengine.hooks import Hook
from mmpretrain.registry import TRANSFORMS
from torch.utils.data import DataLoader, Sampler, SequentialSampler

from autoprog_mm.datasets.seeded import seeded_dataloader, skipping
from tests.micro import STEPS, micro_config, read_record, resume, run
from tests.test_engine.resuming import (
    EVERY_STEP,
    SEARCHES,
    assert_same_state,
    resumed_until,
    without_clocks,
)

# Of 48 steps, in stages of 12: within the first search before, at and after an
# evaluation; the last step of an epoch, before its end has been dealt with; the
# first step after a growth; steps of a chosen subnet; of a later search; of the
# last stage; the last but one.
BEGINS = [(1, step) for step in (1, 3, STEPS, 2 * STEPS + 1, 15, 26, 38, 46)]
# Inside of a search of two epochs, and between the second one's start and its scoring.
BEGINS += [(2, 5), (2, STEPS), (2, 9), (2, 11), (2, 33)]


class Places(Hook):

    def __init__(self):
        self.seen = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.seen.append((runner.epoch, batch_idx, runner.iter))


@TRANSFORMS.register_module()
class CountedLoad(LoadImageFromFile):
    loaded = 0

    def transform(self, results):
        CountedLoad.loaded += 1
        return super().transform(results)


@pytest.mark.parametrize('search, begin', BEGINS)
def test_resume_at_any_step_is_exact(every_step, jpeg_root, tmp_path, search, begin):
    whole, places = every_step(search), Places()
    cfg = micro_config(jpeg_root, tmp_path, SEARCHES[search], **EVERY_STEP)
    resumed_until(cfg, whole / f'iter_{begin}.pth', begin + 1, places)
    # Nothing was done again, and hooks see the step's place in its epoch.
    assert places.seen == [(begin // STEPS, begin % STEPS, begin)]
    assert_same_state(whole / f'iter_{begin + 1}.pth', tmp_path / f'iter_{begin + 1}.pth')


def test_resume_inside_an_epoch_to_the_end(every_step, jpeg_root, tmp_path):
    whole, places = every_step(1), Places()
    cfg = micro_config(jpeg_root, tmp_path, SEARCHES[1], **EVERY_STEP)
    cfg.default_hooks.checkpoint.interval = -1
    cfg.resume, cfg.load_from = True, str(whole / 'iter_15.pth')
    run(cfg, places)
    assert places.seen == [(i // STEPS, i % STEPS, i) for i in range(15, 8 * STEPS)]
    assert_same_state(whole / 'iter_48.pth', tmp_path / 'iter_48.pth')
    assert without_clocks(read_record(tmp_path)) == without_clocks(read_record(whole))


def test_what_was_consumed_is_not_loaded(jpeg_root, tmp_path):
    """In the resumed epoch, only the rest of its 48 images is read."""
    cfg = micro_config(
        jpeg_root, tmp_path, train_cfg__max_epochs=1,
        custom_hooks=[dict(type='AutoProgHook', num_stages=1), dict(type='MoGrowEMAHook')],
        **EVERY_STEP)
    cfg.train_dataloader.dataset.pipeline[0].type = 'CountedLoad'
    run(cfg)
    cfg.work_dir = str(tmp_path / 'resumed')
    CountedLoad.loaded = 0
    resume(cfg, tmp_path / 'iter_4.pth')
    assert CountedLoad.loaded == 2 * 8


def test_plain_loader_cannot_go_on_inside_an_epoch():
    """Without AutoProgHook nobody knows what would have come next."""
    loader = DataLoader(list(range(8)), batch_size=2)
    with pytest.raises(ValueError, match='middle of an epoch needs AutoProgHook'):
        with skipping(loader, 1):
            pass
    with skipping(loader, 0):
        assert len(list(loader)) == 4


def test_other_batch_samplers_are_skipped_too(jpeg_root):
    """A batch sampler of one's own, such as one that groups, keeps its batches."""

    class Pairs(Sampler):

        def __init__(self, sampler):
            self.sampler = sampler

        def __iter__(self):
            indices = list(self.sampler)
            for first, second in zip(indices[:4], reversed(indices)):
                yield [first, second]

        def __len__(self):
            return 4

    loader, _ = seeded_dataloader(
        DataLoader(list(range(10)), batch_sampler=Pairs(SequentialSampler(range(10)))), 0, 0)
    assert [batch.tolist() for batch in loader] == [[0, 9], [1, 8], [2, 7], [3, 6]]
    with skipping(loader, 3):
        assert [batch.tolist() for batch in loader] == [[3, 6]]
        assert len(loader) == 4
    assert len(list(loader)) == 4
