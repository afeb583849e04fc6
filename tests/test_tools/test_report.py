# Copyright (c) the autoprog_mm authors. All rights reserved.
"""tools/report.py, on runs that were trained."""
import json
import re
import sys
from pathlib import Path

import pytest
from mmengine.hooks import Hook

from autoprog_mm.launch import exit_on_user_error
from tests.micro import micro_config, read_record, run, volo_options
from tests.report_runs import RUN, write_run
from tests.test_tools import load_tool

TOOL = Path(__file__).parents[2] / 'tools' / 'report.py'
SEARCH = dict(type='OneShotSearch', epochs=1, eval_batches=1, evals=(1, 1), cost='flops')


class Stop(Hook):
    """Ends a run before its end, as a kill does."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if (runner.epoch, batch_idx) == (2, 3):
            raise KeyboardInterrupt


@pytest.fixture(scope='module')
def trained(jpeg_root, tmp_path_factory):
    """Work directories of short runs of each kind."""
    root = tmp_path_factory.mktemp('runs')

    def train(name, *hooks, search=None, num_stages=2, **options):
        cfg = micro_config(
            jpeg_root, root / name, search, train_cfg__max_epochs=4,
            log_processor=dict(type='AutoProgLogProcessor'),
            **{f'{split}_dataloader__{key}': value for split in ('train', 'val')
               for key, value in (('num_workers', 0), ('persistent_workers', False))}, **options)
        cfg.custom_hooks[0].num_stages = num_stages
        cfg.default_hooks.pop('checkpoint')
        run(cfg, *hooks)

    train('baseline', num_stages=1)
    train('prog')
    train('autoprog', search=SEARCH)
    with pytest.raises(KeyboardInterrupt):
        train('volo', Stop(), search=SEARCH, **volo_options())
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


@pytest.mark.parametrize('kind, num_searches', [('prog', 0), ('autoprog', 1)])
def test_of_real_runs(kind, num_searches, trained, tmp_path, call):
    work_dir, baseline, out = trained / kind, trained / 'baseline', tmp_path / 'page.html'
    status, output = call(work_dir, '--baseline', baseline, '--out', out)
    assert (status, output.out, output.err) == (0, f'Wrote {out}\n', '')
    page = out.read_text(encoding='utf-8')
    record, base = read_record(work_dir), read_record(baseline)
    assert 'Finished, 4 epochs' in page
    assert f'>{base["train_seconds"] / record["train_seconds"]:.2f}×<' in page
    top1 = [json.loads(line) for line in
            next(work_dir.glob('*/vis_data/scalars.json')).read_text().splitlines()
            if 'accuracy/top1' in line][-1]['accuracy/top1']
    assert f'>{top1:.2f} %<' in page
    # The log has the seconds of its losses.
    assert 'interpolated' not in page and 'none in the log' not in page
    assert page.count('aria-label="Loss over cost') == num_searches
    growth = record['stages'][1]['growth']
    assert work_dir.name in page and f'<td>{growth["loss_before"]:.4f}</td>' in page
    assert page.count('<svg') == 3 + num_searches


def test_of_a_baseline_and_of_a_run_that_goes_on(trained, call):
    for kind, says in (('baseline', 'Finished'), ('volo', 'Not finished: 2 of 4 epochs')):
        status, output = call(trained / kind)
        path = trained / kind / 'report.html'
        assert status == 0 and output.out == f'Wrote {path}\n'
        assert says in path.read_text(encoding='utf-8')
    assert 'ElasticVOLO' in path.read_text(encoding='utf-8')


def test_refuses_to_compare(tmp_path, call):
    work_dir = write_run(tmp_path / 'run')
    other = write_run(tmp_path / 'other', 'baseline', run={**RUN, 'seed': 4, 'samples': 9})
    status, output = call(work_dir, '--baseline', other)
    assert status == 2 and output.out == ''
    assert output.err == (
        f'report.py: error: {work_dir!r} cannot be compared with the baseline {other!r}, for they '
        'differ in the data (samples: 32 and 9) and the seed (3 and 4).\n')
    assert not (tmp_path / 'run' / 'report.html').exists()


def test_where_it_cannot_write(tmp_path, call):
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
