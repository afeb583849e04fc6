# Copyright (c) the autoprog_mm authors. All rights reserved.
import os
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from autoprog_mm import Subnet
from autoprog_mm.apis import plan as plan_module
from autoprog_mm.launch import exit_on_user_error
from tests.micro import micro_config, volo_options
from tests.test_tools import load_tool

ROOT = Path(__file__).parents[2]
tool = load_tool(ROOT / 'tools/plan.py')


@pytest.fixture
def plan(monkeypatch, tmp_path, capsys):
    """Calls the tool, from an empty folder; gives its output, or its message."""
    folder = tmp_path / 'cwd'
    folder.mkdir()
    monkeypatch.chdir(folder)

    def call(*arguments):
        monkeypatch.setattr(sys, 'argv', ['plan.py', *map(str, arguments)])
        try:
            with exit_on_user_error():
                tool.main()
        except SystemExit:
            return capsys.readouterr().err
        finally:
            assert [name for name in os.listdir(folder) if not name.startswith('plan.')] == []
        return capsys.readouterr().out

    return call


def write_config(cfg, tmp_path):
    path = tmp_path / 'micro.py'
    cfg.dump(str(path))
    return path


def test_manual_schedule_of_deit_s(plan):
    """Without the data. Multiply-adds are those of a 12-layer network 384 wide."""
    text = plan(ROOT / 'configs/prog/deit-s_prog_in1k.py', '--processes', 8)
    lines = text.splitlines()
    assert any(line.endswith('deit-s_prog_in1k.py: can train.') for line in lines)
    # 160,146 images a process.
    assert 'ElasticDeiT, 12 slots at up to 224 px; 100 epochs of 1252 steps, 1281167 images, ' \
        '1024 an update (128 a step of a process).' in lines
    assert any('1281167 images assumed' in line for line in lines)
    for stage in ('Stage 1, epochs 1 to 25: 6x128.', 'Stage 2, epochs 26 to 50: 8x160.',
                  'Stage 3, epochs 51 to 75: 10x192.', 'Stage 4, epochs 76 to 100: 12x224.'):
        assert stage in lines

    def flops(depth, resolution):
        patches = (resolution // 16)**2
        tokens = patches + 1
        return patches * 768 * 384 + depth * (tokens * 12 * 384**2 + 2 * tokens**2 * 384)

    subnets = [(6, 128), (8, 160), (10, 192), (12, 224)]
    full = flops(12, 224)
    for depth, resolution in subnets:
        row, = [line.split() for line in lines if line.split()[:1] == [f'{depth}x{resolution}']]
        assert float(row[3]) == pytest.approx(flops(depth, resolution) / 1e9, rel=5e-3)
        assert float(row[4].rstrip('%')) == pytest.approx(
            100 * flops(depth, resolution) / full, abs=0.1)
        # A layer has 4 * 384^2 + 8 * 384^2 weights, 9 * 384 biases and two norms.
        layer = 12 * 384**2 + 9 * 384 + 4 * 384
        rest = 384 * 768 + 384 + 384 + 197 * 384 + 2 * 384 + 384 * 1000 + 1000
        assert float(row[1]) == pytest.approx((depth * layer + rest) / 1e6, abs=0.01)
    speed_up = 4 * full / sum(flops(*subnet) for subnet in subnets)
    assert lines[-1] == ('Speed-up of training against the full network from the start, by '
                         f'multiply-adds: {speed_up:.2f}.')


def test_a_search_leaves_a_range_and_is_drawn(plan, jpeg_root, tmp_path):
    cfg = micro_config(jpeg_root, tmp_path / 'never', dict(
        type='OneShotSearch', epochs=1, eval_batches=2, cost='flops'))
    text = plan(write_config(cfg, tmp_path), '--out', 'plan.svg')
    assert ('Stage 1, epochs 1 to 2: a search of 1 epoch, that may come to 2x16, 2x24, 2x32, 3x16, '
            '3x24, 3x32, 4x16, 4x24, 4x32.') in text
    assert 'Stage 4, epochs 7 to 8: 4x32.' in text
    # Two of six batches are scored by 9 candidates at the start and at the epoch's end alone.
    assert "The searches' own work, scoring and timing, is up to " in text
    assert ' to ' in text.split('multiply-adds: ')[1] and 'as the searches choose' in text
    assert Path('plan.svg').read_text().startswith('<?xml')
    assert not (tmp_path / 'never').exists()


def test_measured(plan, jpeg_root, tmp_path, monkeypatch):
    """On a machine on which a step takes a second for each slot and 16 pixels."""
    asked = []

    def probe(model, optim_wrapper, subnets, batch_size, rounds=2):
        asked.append(batch_size)
        return {s: s.depth * s.resolution / 16 for s in subnets}

    monkeypatch.setattr(plan_module, 'probe_steps', probe)
    cfg = micro_config(jpeg_root, tmp_path / 'never', train_dataloader__batch_size=6)
    text = plan(write_config(cfg, tmp_path), '--measure')
    assert asked == [6]
    # Two epochs of 8 steps each of 2x16, 3x24, 3x24 and 4x32: 2, 4.5, 4.5 and 8 seconds.
    assert f'All steps on this machine: {timedelta(seconds=16 * 19)}.' in text
    assert f'by measured steps: {4 * 8 / 19:.2f}.' in text


def test_share_of_the_searches(jpeg_root, tmp_path, monkeypatch):
    """On a machine on which each step takes a second, whatever it runs."""
    monkeypatch.setattr(plan_module, 'probe_steps',
                        lambda model, wrapper, subnets, batch_size: dict.fromkeys(subnets, 1.))
    cfg = micro_config(
        jpeg_root, tmp_path / 'never',
        dict(type='OneShotSearch', epochs=1, eval_batches=2, evals=(1, 1), cost='time'),
        custom_hooks__0__num_stages=2)
    plan = plan_module.make_plan(cfg, measure=True)
    # Two stages with 2 or 4 of depth and 16 or 32 pixels: one search among 4, which scores two
    # batches twice, a third of a step each, and times each 6 times, beside 48 steps of training.
    own = 2 * 2 * 4 / 3 + 6 * 4
    assert plan.search_share == pytest.approx(own / (48 + own))


def test_memory_follows_the_stage_and_the_limit(jpeg_root, tmp_path):
    def memory(**options):
        plan = plan_module.make_plan(micro_config(
            jpeg_root, tmp_path / 'never', train_dataloader__batch_size=16, **options))
        return [plan.subnets[Subnet(d, r)].memory for d, r in ((2, 16), (3, 24), (4, 32))]

    free, limited = memory(), memory(custom_hooks__0__max_batch_per_step=8)
    assert free == sorted(free)
    # In parts of 8 in the full network; in the first stage all 16 fit, as before.
    assert limited[0] == free[0] and limited[2] < free[2]


def test_volo_and_baseline(plan, jpeg_root, tmp_path):
    cfg = micro_config(jpeg_root, tmp_path / 'never', custom_hooks__0__num_stages=1,
                       **volo_options())
    text = plan(write_config(cfg, tmp_path))
    assert 'ElasticVOLO, 6 slots at up to 32 px' in text
    assert 'Stage 1, epochs 1 to 8: 6x32.' in text
    assert 'multiply-adds: 1.00.' in text


def test_mistakes_get_a_sentence(plan, jpeg_root, tmp_path):
    deit = ROOT / 'configs/prog/deit-s_prog_in1k.py'
    assert "Did you mean 'num_stages' instead of 'num_stage'?" in plan(
        deit, '--cfg-options', 'custom_hooks.0.num_stage=3')
    assert 'num_stages (200) must not exceed max_epochs (100)' in plan(
        deit, '--cfg-options', 'custom_hooks.0.num_stages=200')
    assert plan('nowhere.py') == "plan.py: error: config: there is no file 'nowhere.py'.\n"
    assert '--processes must be an int of at least 1, but got 0' in plan(deit, '--processes', 0)
    cfg = micro_config(tmp_path / 'empty', tmp_path / 'never')
    cfg.train_dataloader.dataset.type = cfg.val_dataloader.dataset.type = 'CustomDataset'
    del cfg.train_dataloader.dataset['split'], cfg.val_dataloader.dataset['split']
    path = write_config(cfg, tmp_path)
    message = plan(path)
    assert 'there is no folder' in message and '--samples N' in message
    assert '16 images' in plan(path, '--samples', 16)
    path = write_config(micro_config(jpeg_root, tmp_path / 'never', custom_hooks=[]), tmp_path)
    assert 'has no AutoProgHook' in plan(path)
    assert '--out nowhere/plan.svg' in plan(deit, '--out', 'nowhere/plan.svg')
