# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What is read of a work directory, and what is said of one that can't be."""
import json

import pytest

from autoprog_mm.growth.subnet import Subnet
from autoprog_mm.record.reading import read_record, read_run
from autoprog_mm.utils import UserError
from tests.report_runs import (
    RUN,
    SEARCH,
    baseline_stages,
    grown_stages,
    train_row,
    val_row,
    write_record,
    write_run,
    write_scalars,
)


def test_a_finished_run(tmp_path):
    run = read_run(write_run(tmp_path))
    assert read_record(str(tmp_path))['stages'] == grown_stages()
    assert run.finished and run.train_seconds == 30. and run.epochs == run.epochs_done == 4
    assert run.name == 'tiny_<b>' and run.full == Subnet(4, 32)
    # The last validation's, which is not the best.
    assert run.top1 == 90. and max(v.top1 for v in run.validations) == 95.
    assert [(s.begin_seconds, s.end_seconds) for s in run.stages] == [(0., 10.), (10., 30.)]
    assert len(run.losses) == 8 and run.losses_placed == 'logged'
    assert run.losses[:2] == [(3.75, 1.), (7.5, 0.5)]
    # It grew to the larger subnet, as the search's stage would to its largest candidate.
    growth = run.stages[1].growth
    assert (growth.operator, growth.before, growth.after) == ('MoGrow', Subnet(2, 32),
                                                              Subnet(4, 32))
    assert (growth.loss_before, growth.loss_after) == (0.75, 1.)
    assert run.stages[0].growth is None


def test_a_growth_into_a_search(tmp_path):
    stages = grown_stages()
    stages[1].update(search=SEARCH, subnet=dict(depth=2, resolution=32))
    run = read_run(write_run(tmp_path, stages=stages))
    assert run.stages[1].growth.after == Subnet(4, 32)


def test_the_trend_of_a_search(tmp_path):
    search = read_run(write_run(tmp_path)).stages[0].search
    assert search.by_time
    # In powers of 4, losses from 10 to 1.25 over a cost of 2: log4(8) / 2.
    assert search.fitted == pytest.approx(0.75)
    assert [candidate.loss for candidate in search.drawable] == [10., 1.25, 1.25]
    # Twice, half and all of 0.5 * T ** -0.5: the factors cancel in log space.
    assert search.scale == pytest.approx(0.5)
    assert [search.trend(cost) for cost in (0.01, 0.04, 0.16)] == pytest.approx([5., 2.5, 1.25])


def test_a_search_by_multiply_adds_without_a_fit(tmp_path):
    candidates = [dict(c, time=None) for c in SEARCH['candidates'][:2]]
    stages = grown_stages()
    stages[0]['search'] = dict(SEARCH, w=0., candidates=candidates)
    search = read_run(write_run(tmp_path, stages=stages)).stages[0].search
    assert not search.by_time and search.fitted is None
    assert search.cost(search.candidates[0]) == 1e6
    assert search.scale == pytest.approx((10. * 1.25)**0.5)


def test_a_resumed_run_that_was_killed(tmp_path):
    write_record(tmp_path, grown_stages()[:1], finished=False)
    write_scalars(tmp_path, [
        train_row(2, 3., 1.), train_row(4, 2., 2.), val_row(1, 2.5, 10.),
        train_row(6, 1.5, 4.), train_row(8, 1.25, 5.), val_row(2, 5.5, 20.)])
    # It went on after step 4, and was killed while it wrote.
    write_scalars(tmp_path, [train_row(6, 1.75, 7.), {'autoprog/search_w': 0.1, 'step': 6}],
                  start='20260101_000100', tail='{"loss": 0.5, "st')
    run = read_run(str(tmp_path))
    assert run.losses == [(1., 3.), (2., 2.), (7., 1.75)]
    # That of epoch 2 is void: it was not reached again.
    assert [tuple(v) for v in run.validations] == [(1, 2.5, 10.)]
    assert not run.finished and run.epochs_done == 1
    assert run.last_seconds == 10.  # of the record


def test_seconds_in_between_without_logged_ones(tmp_path):
    write_record(tmp_path, baseline_stages(), finished=False, run=None)
    write_scalars(tmp_path, [
        train_row(2, 3.), train_row(4, 2.), val_row(1, 10., 1.),
        train_row(6, float('nan')), val_row(2, 30., 2.), train_row(9, 1.)])
    run = read_run(str(tmp_path))
    assert run.losses_placed == 'interpolated'
    # Half and all of the first epoch, half of the second; what comes after it is not known.
    assert run.losses == [(5., 3.), (10., 2.), (20., None)]
    assert run.settings is None and run.name == tmp_path.name


def test_nothing_but_losses(tmp_path):
    write_record(tmp_path, baseline_stages(), finished=False)
    write_scalars(tmp_path, [train_row(2, 3.), train_row(4, 2.)])
    run = read_run(str(tmp_path))
    assert run.losses_placed == 'unknown' and run.losses == [] and run.top1 is None


def test_a_record_of_before(tmp_path):
    stages = grown_stages()
    for one in stages:
        del one['growth']
    write_run(tmp_path, stages=stages)
    path = tmp_path / 'autoprog.json'
    record = json.loads(path.read_text())
    del record['run']
    path.write_text(json.dumps(record))
    run = read_run(str(tmp_path))
    assert run.settings is None and run.epochs == 4
    growth = run.stages[1].growth
    assert growth.operator == 'MoGrow' and growth.before is None and growth.loss_after is None


def damaged(key):
    return {name: value for name, value in RUN.items() if name != key}


@pytest.mark.parametrize('content, message', [
    (None, 'has no autoprog.json: give the work directory'),
    ('no', r'autoprog.json. is not JSON \(.*line 1'),
    ('[1]', 'has no schema number'),
    ('{"schema": 7}', 'is of schema 7, but this version reads schema 1 to 2'),
    ('{"schema": 1}', "is not as records of schema 2 are .KeyError: 'model'"),
    (dict(stages=[{}]), "KeyError: 'search'"),
    (dict(stages=4), 'TypeError'),
    (dict(full=dict(depth=0, resolution=32)), 'Subnet.depth must be an int of at least 1'),
    (dict(run=damaged('seed')), 'run.seed'),
])
def test_what_is_no_record(content, message, tmp_path):
    write_run(tmp_path)
    path = tmp_path / 'autoprog.json'
    if content is None:
        path.unlink()
    else:
        path.write_text(content if isinstance(content, str) else
                        json.dumps({**json.loads(path.read_text()), **content}))
    with pytest.raises(UserError, match=message):
        read_run(str(tmp_path))


def test_no_folder_no_log_and_a_damaged_one(tmp_path):
    with pytest.raises(UserError, match="There is no folder '.*none'"):
        read_run(str(tmp_path / 'none'))
    work_dir = tmp_path / 'run [1]'  # no pattern
    write_record(work_dir, grown_stages())
    with pytest.raises(UserError, match=r'has no \*/vis_data/scalars.json'):
        read_run(str(work_dir))
    write_scalars(work_dir, [train_row(2, 3.)], tail='half\n{"loss": 1, "step": 3}\n')
    with pytest.raises(UserError, match=r"scalars.json', line 2, is not JSON \('half'\)"):
        read_run(str(work_dir))


def test_a_metric_of_another_prefix(tmp_path):
    write_record(tmp_path, grown_stages())
    row = {'train_seconds': 5., 'digits/top5': 99., 'digits/top1': 80., 'step': 1}
    write_scalars(tmp_path, [train_row(4, 1., 5.), row])
    assert read_run(str(tmp_path)).top1 == 80.


def test_a_run_that_was_stopped_early(tmp_path):
    """After three of four epochs, in the second stage; its time is known to its end."""
    stages = grown_stages()
    stages[1]['end_epoch'] = 3
    write_record(tmp_path, stages, finished=False, stopped_after=3)
    write_scalars(tmp_path, [train_row(4, 1., 5.), val_row(1, 5., 80.)])
    run = read_run(str(tmp_path))
    assert (run.finished, run.stopped_after, run.epochs, run.epochs_done) == (False, 3, 4, 3)
    assert run.clock[-1] == (3., 30.)
