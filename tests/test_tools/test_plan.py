# Copyright (c) the autoprog_mm authors. All rights reserved.
import os
import runpy
import sys
from pathlib import Path

import pytest

from autoprog_mm import Subnet
from autoprog_mm.apis.plan import Plan, SubnetPlan
from autoprog_mm.growth import build_schedule
from autoprog_mm.growth.course import Course
from autoprog_mm.planning.forecast import Range
from tests.forked import run_script
from tests.micro import micro_config
from tests.test_tools import load_tool

TOOL = Path(__file__).parents[2] / 'tools/plan.py'
tool = load_tool(TOOL)
SMALL, FULL = Subnet(6, 112), Subnet(12, 224)


def made_up(**options):
    """A plan of two stages; seconds of a step if it is to be a measured one."""
    seconds = options.pop('step_seconds', (None, None))
    stages = build_schedule(2, 100, FULL, dict(depth=0.5, resolution=0.5), resolution_divisor=16)
    return Plan(**dict(
        dict(
            model='ElasticDeiT', full=FULL, stages=stages, course=Course(stages, 100, 1252),
            budget='time', rates=[[1e-6, 5.05e-4], [5.05e-4, 1e-5]],
            candidates=[[SMALL], [FULL]], search_epochs=0,
            subnets={FULL: SubnetPlan(22050664, 4.6e9, 3 * 2**30, seconds[1]),
                     SMALL: SubnetPlan(11404264, 0.575e9, 1.5 * 2**30, seconds[0])},
            epochs=100, steps_per_epoch=1252, batch_size=1024, step_batch=128, samples=1281167,
            speed_up=Range(1.778, 1.778), manual_speed_up=1.778, search_share=0.,
            notes=['Data are made up.']), **options))


def test_lines_of_a_manual_schedule():
    assert tool.write(made_up()) == [
        'ElasticDeiT, 12 slots at up to 224 px; 100 epochs of 1252 steps, 1281167 images, '
        '1024 an update (128 a step of a process).',
        'Note: Data are made up.',
        '',
        'Stage 1, epochs 1 to 50: 6x112.',
        'Stage 2, epochs 51 to 100: 12x224.',
        '',
        'stage  depth x px  epochs       images  compute  learning rate',
        '    1       6x112      50     64058350    11.1%  1e-06 to 0.000505',
        '    2      12x224      50     64058350    88.9%  0.000505 to 1e-05',
        '',
        'depth x px     awake   GFLOPs  of full     memory',
        '     6x112   11.40 M    0.575    12.5%    1.50 GB',
        '    12x224   22.05 M      4.6   100.0%    3.00 GB',
        '',
        'Speed-up of training against the full network from the start, by multiply-adds: 1.78.',
    ]


def test_lines_of_a_measured_search():
    """Shares are those of the seconds, and the searches' own work is too large a part."""
    plan = made_up(
        step_seconds=(0.1, 0.4), rates=None, candidates=[[SMALL, FULL], [FULL]], search_epochs=2,
        speed_up=Range(0.9, 1.4), search_share=0.125, seconds=Range(3600.4, 7325.))
    assert tool.write(plan)[3:] == [
        'Stage 1, epochs 1 to 50: a search of 2 epochs, that may come to 6x112, 12x224.',
        'Stage 2, epochs 51 to 100: 12x224.',
        '',
        'stage  depth x px  epochs       images  compute  learning rate',
        '    1       6x112      50     64058350    20.0%  as validations go',
        '    2      12x224      50     64058350    80.0%  as validations go',
        '',
        'depth x px     awake   GFLOPs  of full     memory       step',
        '     6x112   11.40 M    0.575    25.0%    1.50 GB    0.1000s',
        '    12x224   22.05 M      4.6   100.0%    3.00 GB    0.4000s',
        '',
        'Speed-up of training against the full network from the start, by measured steps: '
        '0.90 to 1.40, as the searches choose (1.78 by the manual schedule).',
        "The searches' own work, scoring and timing, is up to 12.5% of the run. Lower "
        'search.eval_batches or search.evals of AutoProgHook.',
        'All steps on this machine: 1:00:00 to 2:02:05.',
    ]
    plan.search_share, plan.search_epochs, plan.seconds = 0.05, 1, Range(60., 60.2)
    lines = tool.write(plan)
    assert lines[3].startswith('Stage 1, epochs 1 to 50: a search of 1 epoch, that')
    assert lines[-2:] == [
        "The searches' own work, scoring and timing, is up to 5.0% of the run.",
        'All steps on this machine: 0:01:00.']


def write_config(tmp_path, search=None, **options):
    """A config of data that aren't there."""
    path = tmp_path / 'micro.py'
    micro_config(tmp_path / 'nowhere', tmp_path / 'never', search, **options).dump(str(path))
    return path


def test_as_a_script(tmp_path):
    """A search, drawn; nothing else is written."""
    path = write_config(tmp_path, dict(
        type='OneShotSearch', epochs=1, eval_batches=2, cost='flops'))
    folder = tmp_path / 'cwd'
    folder.mkdir()
    result = run_script(TOOL, path, '--samples', 48, '--out', 'plan.svg', cwd=folder)
    assert result.returncode == 0, result.stdout
    assert f'{path}: can train.' in result.stdout
    assert 'ElasticDeiT, 4 slots at up to 32 px; 8 epochs of 6 steps, 48 images' in result.stdout
    assert ('Stage 1, epochs 1 to 2: a search of 1 epoch, that may come to 2x16, 2x24, 2x32, 3x16, '
            '3x24, 3x32, 4x16, 4x24, 4x32.') in result.stdout
    assert 'as the searches choose' in result.stdout
    assert result.stdout.splitlines()[-1] == 'Picture: plan.svg'
    assert (folder / 'plan.svg').read_text().startswith('<?xml')
    assert os.listdir(folder) == ['plan.svg'] and sorted(os.listdir(tmp_path)) == [
        'cwd', 'micro.py']


@pytest.mark.parametrize('wrapper, processes, line', [
    (dict(type='RepeatDataset', times=3), 1, '8 epochs of 18 steps, 144 images'),
    (dict(type='RepeatDataset', times=3), 4, '8 epochs of 5 steps, 144 images'),
    (dict(type='KFoldDataset', num_splits=4), 1, '8 epochs of 5 steps, 36 images'),
    (dict(type='ClassBalancedDataset', oversample_thr=0.1), 1, '8 epochs of 6 steps, 48 images'),
])
def test_wrapped_data_that_are_not_here(monkeypatch, tmp_path, capsys, wrapper, processes, line):
    cfg = micro_config(tmp_path / 'nowhere', tmp_path / 'never')
    cfg.train_dataloader.dataset = dict(wrapper, dataset=cfg.train_dataloader.dataset)
    cfg.dump(str(tmp_path / 'micro.py'))
    call(monkeypatch, tmp_path, 'micro.py', '--samples', 48, '--processes', processes)
    output = capsys.readouterr().out
    assert line in output
    assert ('48 images assumed, as many of each class.' in output) == (
        wrapper['type'] == 'ClassBalancedDataset')


def test_data_that_are_here_but_wrong(monkeypatch, tmp_path, jpeg_root, capsys):
    """They are not taken for missing ones."""
    cfg = micro_config(jpeg_root, tmp_path / 'never')
    for name, classes in (('train', 'abc'), ('val', 'ac')):
        for folder in classes:
            (tmp_path / name / folder).mkdir(parents=True)
            (tmp_path / name / folder / '1.jpg').touch()
        cfg[f'{name}_dataloader'].dataset = dict(
            type='CustomDataset', data_root=str(tmp_path), data_prefix=name,
            pipeline=cfg[f'{name}_dataloader'].dataset.pipeline)
    cfg.dump(str(tmp_path / 'micro.py'))
    with pytest.raises(SystemExit):
        call(monkeypatch, tmp_path, 'micro.py', '--samples', 48)
    assert "different class folders: 'b' is in one of them only" in capsys.readouterr().err


def call(monkeypatch, folder, *arguments):
    """Run the tool in this process, from a folder."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, 'argv', ['plan.py', *map(str, arguments)])
    runpy.run_path(str(TOOL), run_name='__main__')


def test_measured(monkeypatch, tmp_path, capsys):
    call(monkeypatch, tmp_path, write_config(tmp_path), '--measure')
    assert 'by measured steps: ' in capsys.readouterr().out


@pytest.mark.parametrize('arguments, message', [
    (['micro.py', '--cfg-options', 'custom_hooks.0.num_stage=3'],
     "AutoProgHook has no option 'num_stage'. Did you mean 'num_stages'?"),
    (['micro.py', '--cfg-options', 'custom_hooks.0.num_stages=200'],
     'num_stages (200) must not exceed max_epochs (8)'),
    (['nowhere.py'], 'nowhere.py'),
    (['micro.py', '--out', 'nowhere/plan.svg'], '--out nowhere/plan.svg'),
    (['micro.py', '--processes', 0], '--processes must be '),
    (['micro.py', '--samples', -1], '--samples must be '),
])
def test_mistakes_get_a_sentence(monkeypatch, tmp_path, capsys, arguments, message):
    if arguments[0] == 'micro.py':
        write_config(tmp_path)
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, tmp_path, *arguments)
    assert stop.value.code
    assert message in f'{stop.value.code}{capsys.readouterr().err}'
