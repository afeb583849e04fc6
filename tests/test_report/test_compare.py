# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Which runs are compared, and with which figures."""
import pytest

from autoprog_mm.report import check_comparable, gain, read_run, speed_up
from autoprog_mm.report.compare import other_differences
from autoprog_mm.utils import UserError
from tests.report_runs import RUN, grown_stages, write_run


@pytest.fixture
def pair(tmp_path):
    """Runs of 30 and 60 seconds; the baseline's ``run`` can be changed."""

    def pair(**changes):
        run = write_run(tmp_path / 'run')
        baseline = write_run(tmp_path / 'base', 'baseline', top1=89.5, run={**RUN, **changes})
        return read_run(run), read_run(baseline)

    return pair


def test_figures(pair):
    run, baseline = pair(config='other')
    check_comparable(run, baseline)
    assert other_differences(run, baseline) == []
    assert speed_up(run, baseline) == 2.
    assert gain(run, baseline) == pytest.approx(0.5)
    assert speed_up(run, None) is None and gain(run, None) is None


def test_no_figures_of_a_run_that_goes_on(pair, tmp_path):
    _, baseline = pair()
    run = read_run(write_run(tmp_path / 'open', stages=grown_stages()[:1], finished=False))
    for one, other in ((run, baseline), (baseline, run)):
        assert speed_up(one, other) is None and gain(one, other) is None


@pytest.mark.parametrize('changes, message', [
    (dict(seed=4), r'differ in the seed \(3 and 4\)\.'),
    (dict(epochs=5, batch_size=16, seed=0),
     r'differ in the epochs \(4 and 5\), the batch size \(8 and 16\) and the seed \(3 and 0\)\.'),
    (dict(samples=31), r'differ in the data \(samples: 32 and 31\)\.'),
    (dict(dataset=dict(type='ImageNet', data_root='data/tiny', split='val', indices=4)),
     r'differ in the data \(split: train and val; indices: not set and 4\)\.'),
])
def test_runs_that_cannot_be_compared(changes, message, pair):
    run, baseline = pair(**changes)
    with pytest.raises(UserError, match=r"run' cannot be compared .*base', for they " + message):
        check_comparable(run, baseline)


def test_a_record_of_before_cannot_be_compared(pair, tmp_path):
    run, _ = pair()
    before = read_run(write_run(tmp_path / 'before', run=None))
    for one, other in ((run, before), (before, run)):
        with pytest.raises(UserError, match="before' is of an older version.* cannot be"):
            check_comparable(one, other)


def test_what_else_may_explain_a_figure(pair):
    run, baseline = pair(device='GPU', processes=8, versions=dict(torch='2.13.0', mmcv='2.2'))
    check_comparable(run, baseline)
    assert other_differences(run, baseline) == [
        'device (CPU, 2 threads and GPU)', 'processes (1 and 8)',
        'version of mmcv (None and 2.2)']
