# Copyright (c) the autoprog_mm authors. All rights reserved.
"""A run that was stopped and resumed ends as one that was never stopped."""
import pytest
import torch

from tests.micro import differences, load, micro_config, read_record, resume, run

# What a later run can't repeat: names, clocks and the time of the day.
EXACT = ('state_dict', 'online_state_dict', 'optimizer', 'param_schedulers')
# Stages are two epochs long. A search of one leaves an epoch to its choice; one
# of two is still under way after a stage's first epoch.
SEARCHES = {
    epochs: dict(
        type='OneShotSearch', epochs=epochs, eval_batches=2, evals=(2, 1), cost='flops')
    for epochs in (1, 2)
}
# A search that begins after the first stage.
SEARCHES['near'] = dict(SEARCHES[1], first_stage=1, max_lag=0, reduction='last', min_w=0.05)
SEARCH = SEARCHES[1]


def without_clocks(record):
    return {
        **record, 'train_seconds': None,
        'stages': [{**stage, 'seconds': None} for stage in record['stages']]
    }


@pytest.fixture(scope='module')
def wholes(jpeg_root, tmp_path_factory):
    """An uninterrupted run with each search; all their checkpoints are kept."""
    work_dirs = {}
    for name, search in SEARCHES.items():
        work_dirs[name] = tmp_path_factory.mktemp('whole')
        run(micro_config(jpeg_root, work_dirs[name], search))
    return work_dirs


@pytest.fixture(scope='module')
def whole(wholes):
    return wholes[1]


@pytest.mark.parametrize(
    'epoch, search', [*((epoch, 2) for epoch in (1, 2, 3, 4, 7)), (1, 1), (2, 1), (5, 1),
                      (1, 'near'), (3, 'near')])
def test_resume_is_exact(wholes, jpeg_root, tmp_path, search, epoch):
    whole = wholes[search]
    resume(micro_config(jpeg_root, tmp_path, SEARCHES[search]), whole / f'epoch_{epoch}.pth')
    expected, got = load(whole / 'epoch_8.pth'), load(tmp_path / 'epoch_8.pth')
    for key in EXACT:
        assert differences(expected[key], got[key], key) == []
    assert without_clocks(read_record(tmp_path)) == without_clocks(read_record(whole))


def test_workers_make_no_difference(whole, jpeg_root, tmp_path):
    run(
        micro_config(
            jpeg_root,
            tmp_path,
            SEARCH,
            train_dataloader__num_workers=0,
            train_dataloader__persistent_workers=False))
    expected, got = load(whole / 'epoch_8.pth'), load(tmp_path / 'epoch_8.pth')
    for key in EXACT:
        assert differences(expected[key], got[key], key) == []


def test_another_seed_makes_a_difference(whole, jpeg_root, tmp_path):
    run(micro_config(jpeg_root, tmp_path, SEARCH, randomness__seed=8))
    assert differences(
        load(whole / 'epoch_8.pth')['state_dict'], load(tmp_path / 'epoch_8.pth')['state_dict'])


def test_an_open_seed_is_taken_up_again(jpeg_root, tmp_path):
    cfg = micro_config(jpeg_root, tmp_path / 'whole', randomness__seed=None)
    runner = run(cfg)
    cfg.work_dir = str(tmp_path / 'resumed')
    resumed = resume(cfg, tmp_path / 'whole' / 'epoch_3.pth')
    assert resumed.seed == runner.seed
    expected, got = (load(tmp_path / name / 'epoch_8.pth') for name in ('whole', 'resumed'))
    for key in EXACT:
        assert differences(expected[key], got[key], key) == []


def test_config_text_of_a_checkpoint_is_not_run(wholes, jpeg_root, tmp_path):
    """mmengine's resume would execute meta.config, as its `gpu_ids` of old were in there."""
    state = load(wholes[1] / 'epoch_3.pth')
    trap = tmp_path / 'trapped'
    for key in ('config', 'cfg'):
        state['meta'][key] = f'open({str(trap)!r}, "w").close()\ngpu_ids = [0]\n'
    torch.save(state, tmp_path / 'epoch_3.pth')
    resume(micro_config(jpeg_root, tmp_path / 'run', SEARCH), tmp_path / 'epoch_3.pth')
    assert not trap.exists()
    assert read_record(tmp_path / 'run')['finished']
