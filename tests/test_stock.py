# Copyright (c) the autoprog_mm authors. All rights reserved.
"""mmpretrain's own tools and inferencer, with a checkpoint of a real run."""
import json
import re
import sys
from pathlib import Path

import mmpretrain
import numpy as np
import pytest
import torch
from mmengine.analysis import get_model_complexity_info
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain import ImageClassificationInferencer, get_model

import autoprog_mm.stock
from autoprog_mm import Subnet
from tests.micro import load, micro_config, run
from tests.test_packaging import run_python
from tests.test_tools import load_tool

ROOT = Path(__file__).parents[1]
# Of the micro network at 32 pixels: 4 x 4 patches and the class token, 16 wide,
# 4 layers. What mmengine's counter sees of its backbone, by hand:
TOKENS, WIDTH, LAYERS = 17, 16, 4
STEM = 16 * 3 * 8 * 8 * WIDTH
PROJECTIONS = LAYERS * TOKENS * (4 * WIDTH * WIDTH + 2 * WIDTH * 32)
NORMS = 5 * (2 * LAYERS + 1) * TOKENS * WIDTH  # 5 operations a value
ATTENTION = LAYERS * 2 * TOKENS**2 * WIDTH  # inside of a fused operator, which it does not know
HEAD = WIDTH * 4


@pytest.fixture(scope='module')
def trained(jpeg_root, tmp_path_factory):
    """Config file, checkpoint and last accuracy of a run that has grown to the end."""
    folder = tmp_path_factory.mktemp('trained')
    cfg = micro_config(jpeg_root, folder, train_cfg__max_epochs=4, param_scheduler__1__end=4)
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    cfg.test_cfg = dict()
    cfg.custom_imports = dict(imports=['autoprog_mm'])
    cfg.default_hooks.param_scheduler = dict(type='ParamSchedulerHook')
    cfg.visualizer = dict(
        type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
    config = folder / 'config.py'
    cfg.dump(config)
    with DefaultScope.overwrite_default_scope(None):
        runner = run(cfg)
    assert runner.model.backbone.awake_subnet == Subnet(4, 32)
    accuracy = runner.message_hub.get_scalar('val/accuracy/top1').current()
    return config, folder / 'epoch_4.pth', accuracy


def call_stock(monkeypatch, *args):
    monkeypatch.setattr(sys, 'argv', ['stock', *map(str, args)])
    monkeypatch.setattr(sys, 'path', list(sys.path))
    autoprog_mm.stock.main()


def test_stock_test_gives_the_accuracy_of_ours(trained, tmp_path, monkeypatch):
    config, checkpoint, accuracy = trained
    run_python('-m', 'autoprog_mm.stock', 'test.py', config, checkpoint, '--work-dir',
               tmp_path / 'stock', '--out', tmp_path / 'stock.json', '--out-item', 'metrics',
               cwd=tmp_path, path=ROOT)
    monkeypatch.setattr(sys, 'argv', list(map(str, (
        'test.py', config, checkpoint, '--work-dir', tmp_path / 'ours', '--out',
        tmp_path / 'ours.json', '--out-item', 'metrics'))))
    load_tool(ROOT / 'tools' / 'test.py').main()
    stock, ours = (json.loads((tmp_path / f'{name}.json').read_text())
                   for name in ('stock', 'ours'))
    assert stock['accuracy/top1'] == ours['accuracy/top1'] == accuracy > 25


def test_stock_tool_counts_flops(trained, monkeypatch, capsys):
    config, _, _ = trained
    call_stock(monkeypatch, 'analysis_tools/get_flops.py', config, '--shape', 32)
    counted = STEM + PROJECTIONS + NORMS
    assert f'Flops: {counted / 1e6:.3f}M' in capsys.readouterr().out
    # Ours counts attention, and leaves out the norms.
    model = get_model(str(config)).eval()
    assert model.backbone.flops(Subnet(4, 32)) == counted - NORMS + ATTENTION
    # Of the whole network: the head as well.
    assert get_model_complexity_info(model, (3, 32, 32))['flops'] == counted + HEAD


def test_stock_tool_counts_flops_of_volo_by_name(monkeypatch, capsys):
    call_stock(monkeypatch, 'analysis_tools/get_flops.py', 'volo-micro_mnist5k', '--shape', '48')
    printed = re.search(r'Flops: ([\d.]+)M\nParams: ([\d.]+)M', capsys.readouterr().out)
    model = get_model('volo-micro_mnist5k')
    # Attention is missing there, and a few operations between layers here.
    assert float(printed[1]) * 1e6 == pytest.approx(
        model.backbone.flops(Subnet(6, 48)), rel=0.05)
    assert float(printed[2]) == 0.646
    # Only a trace goes without it.
    assert model.backbone(torch.zeros(1, 3, 48, 48))[0].own_share == 1


def test_stock_tools_read_the_log(trained, tmp_path, monkeypatch, capsys):
    config, _, accuracy = trained
    log = max(config.parent.glob('*/vis_data/scalars.json'))
    points = []
    monkeypatch.setattr('matplotlib.pyplot.plot', lambda xs, ys, **_: points.append((xs, ys)))
    call_stock(monkeypatch, 'analysis_tools/analyze_logs.py', 'plot_curve', log, '--keys',
               'accuracy/top1', 'loss', '--out', tmp_path / 'curves.png')
    (epochs, accuracies), (_, losses) = points
    assert list(epochs) == [1, 2, 3, 4] and accuracies[-1] == accuracy
    assert len(losses) == 4 * 3  # a row in two steps
    call_stock(monkeypatch, 'analysis_tools/analyze_logs.py', 'cal_train_time', log)
    assert 'average iter time: ' in capsys.readouterr().out


def test_stock_tool_browses(trained, tmp_path, monkeypatch):
    call_stock(monkeypatch, 'visualization/browse_dataset.py', trained[0], '-o', tmp_path, '-n', 1,
               '--not-show')
    assert [path.suffix for path in tmp_path.iterdir()] == ['.jpg']


def test_stock_tool_draws_the_schedule(trained, tmp_path, monkeypatch):
    """As the docs say: without the hooks, in mmengine's own loop."""
    points = []
    monkeypatch.setattr('matplotlib.axes.Axes.plot', lambda self, ys, **_: points.append(ys))
    call_stock(monkeypatch, 'visualization/vis_scheduler.py', trained[0], '-s',
               tmp_path / 'lr.png', '-d', 48, '--not-show', '--cfg-options', 'custom_hooks=None',
               'train_cfg.type=EpochBasedTrainLoop', f'work_dir={tmp_path}')
    rates, = points
    assert len(rates) == 4 * 6 and max(rates) == pytest.approx(3e-3)
    assert rates[0] == pytest.approx(3e-4)  # the warm-up's start


def test_inferencer_predicts_a_jpeg(trained, jpeg_root):
    config, checkpoint, _ = trained
    images = sorted((jpeg_root / 'val').rglob('*.jpg'))
    inferencer = ImageClassificationInferencer(str(config), pretrained=str(checkpoint))
    results = inferencer([str(path) for path in images], batch_size=4)
    assert [result['pred_scores'].shape for result in results] == [(4, )] * len(images)
    # As the checkpoint's own tensors say, in mmpretrain's stock network.
    cfg = Config.fromfile(config)
    cfg.model.backbone.type = 'VisionTransformer'
    cfg.model.data_preprocessor.type = 'ClsDataPreprocessor'
    stock = get_model(cfg)
    stock.load_state_dict(load(checkpoint)['state_dict'], strict=True)
    expected = ImageClassificationInferencer(stock)(str(images[0]))[0]
    # In batches of another size sums are rounded in another order.
    np.testing.assert_allclose(
        results[0]['pred_scores'], expected['pred_scores'], rtol=1e-5, atol=1e-7)
    assert results[0]['pred_label'] == expected['pred_scores'].argmax()


def test_tool_runs_as_a_script_does(monkeypatch, tmp_path, capsys):
    (tmp_path / 'deep').mkdir()
    (tmp_path / 'deep' / 'stock_sibling.py').write_text("print('sibling')")
    (tmp_path / 'deep' / 'tool.py').write_text(
        'import sys, stock_sibling\nprint(__name__, sys.argv[1:])')
    monkeypatch.setattr(autoprog_mm.stock, 'TOOLS', tmp_path)
    call_stock(monkeypatch, 'deep/tool.py', '--a', 'b')
    assert capsys.readouterr().out == "sibling\n__main__ ['--a', 'b']\n"


def test_unknown_tool_gets_a_sentence(monkeypatch, capsys):
    with pytest.raises(SystemExit, match='2'):
        call_stock(monkeypatch, 'tset.py')
    assert re.match(r"mmpretrain has no tool 'tset.py' in .*It has: .*test.py",
                    capsys.readouterr().err)
    with pytest.raises(SystemExit, match='2'):
        call_stock(monkeypatch)
    assert capsys.readouterr().err.startswith('usage: python -m autoprog_mm.stock TOOL')
    call_stock(monkeypatch, '--help')
    assert 'analysis_tools/get_flops.py' in capsys.readouterr().out
    assert autoprog_mm.stock.TOOLS.parent.parent == Path(mmpretrain.__file__).parent
