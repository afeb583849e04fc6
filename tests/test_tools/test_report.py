# Copyright (c) the autoprog_mm authors. All rights reserved.
"""tools/report.py, on runs that were trained."""
import json
import re
import sys
from pathlib import Path

import pytest
from mmengine.hooks import Hook

from autoprog_mm.launch import exit_on_user_error
from autoprog_mm.report import read_run
from tests.micro import micro_config, read_record, run, volo_options
from tests.report_runs import RUN, write_run
from tests.test_tools import load_tool

TOOL = Path(__file__).parents[2] / 'tools' / 'report.py'
SEARCH = dict(type='OneShotSearch', epochs=1, eval_batches=1, evals=(1, 1), cost='flops')


class Stop(Hook):
    """Ends a run before its end, as a kill does."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if (runner.epoch, batch_idx) == (1, 2):
            raise KeyboardInterrupt


@pytest.fixture(scope='module')
def trained(jpeg_root, tmp_path_factory):
    """Work directories of short runs, of three steps an epoch."""
    root = tmp_path_factory.mktemp('runs')

    def train(name, *hooks, search=None, num_stages=2, max_epochs=3, **options):
        cfg = micro_config(
            jpeg_root, root / name, search, train_cfg__max_epochs=max_epochs,
            train_dataloader__dataset__indices=24, val_dataloader__dataset__indices=8,
            log_processor=dict(type='AutoProgLogProcessor'), **options)
        cfg.custom_hooks[0].num_stages = num_stages
        cfg.default_hooks.checkpoint = None
        run(cfg, *hooks)

    train('baseline', num_stages=1)
    train('autoprog', search=SEARCH)
    with pytest.raises(KeyboardInterrupt):
        train('volo', Stop(), max_epochs=2, **volo_options())
    return root


@pytest.fixture(scope='module')
def tool():
    return load_tool(TOOL)


@pytest.fixture
def call(tool, monkeypatch, capsys):
    """Run the tool in this process."""

    def call(*args):
        monkeypatch.setattr(sys, 'argv', ['report.py', *map(str, args)])
        status = 0
        try:
            with exit_on_user_error():
                tool.main()
        except SystemExit as ended:
            status = ended.code
        return status, capsys.readouterr()

    return call


def test_of_real_runs(trained, tmp_path, call):
    work_dir, baseline, out = trained / 'autoprog', trained / 'baseline', tmp_path / 'page.html'
    status, output = call(work_dir, '--baseline', baseline, '--out', out)
    assert (status, output.out, output.err) == (0, f'Wrote {out}\n', '')
    page = out.read_text(encoding='utf-8')
    record, base = read_record(work_dir), read_record(baseline)
    assert 'Finished, 3 epochs' in page
    assert f'>{base["train_seconds"] / record["train_seconds"]:.2f}×<' in page
    top1 = [json.loads(line) for line in
            next(work_dir.glob('*/vis_data/scalars.json')).read_text().splitlines()
            if 'accuracy/top1' in line][-1]['accuracy/top1']
    assert f'>{top1:.2f} %<' in page
    # The log has the seconds of its losses.
    assert 'interpolated' not in page and 'none in the log' not in page
    assert page.count('aria-label="Loss over cost') == 1
    growth = record['stages'][1]['growth']
    assert work_dir.name in page and f'<td>{growth["loss_before"]:.4f}</td>' in page
    assert page.count('<svg') == 4


def test_validations_of_real_runs(trained):
    """One an epoch, in order, and training time never goes back."""
    for kind in ('baseline', 'autoprog'):
        epochs, seconds, top1 = zip(*read_run(str(trained / kind)).validations)
        assert epochs == (1, 2, 3) and 0 < seconds[0] and list(seconds) == sorted(seconds)
        assert all(0 <= value <= 100 for value in top1)


def test_of_a_run_that_goes_on(trained, call):
    status, output = call(trained / 'volo')
    path = trained / 'volo' / 'report.html'
    assert status == 0 and output.out == f'Wrote {path}\n'
    page = path.read_text(encoding='utf-8')
    assert 'Not finished: 1 of 2 epochs' in page and 'ElasticVOLO' in page


def test_refuses_to_compare(tmp_path, call):
    work_dir = write_run(tmp_path / 'run')
    other = write_run(tmp_path / 'other', 'baseline', run={**RUN, 'seed': 4, 'samples': 9})
    status, output = call(work_dir, '--baseline', other)
    assert status == 2 and output.out == ''
    assert output.err == (
        f'report.py: error: {work_dir!r} cannot be compared with the baseline {other!r}, for they '
        'differ in the data (samples: 32 and 9) and the seed (3 and 4).\n')
    assert not (tmp_path / 'run' / 'report.html').exists()


def test_where_it_cannot_write(tmp_path, tool, call, monkeypatch):
    monkeypatch.setattr(tool, 'build_page', lambda *_: '')
    out = tmp_path / 'none' / 'page.html'
    status, output = call(write_run(tmp_path / 'run'), '--out', out)
    assert status == 2
    assert output.err == f"report.py: error: --out: '{out}' cannot be written (No such file or " \
        'directory): give another file.\n'


def test_a_sentence_for_what_is_no_run(tmp_path, call):
    status, output = call(tmp_path)
    assert status == 2 and output.out == ''
    assert re.fullmatch(r"report.py: error: '.*' has no autoprog.json: give .*\n", output.err)
    assert not list(tmp_path.iterdir())
