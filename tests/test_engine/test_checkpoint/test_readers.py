# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Whoever reads a checkpoint gives the same answer as every other reader, or refuses."""
import pickle
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import DumpResults
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpretrain import ImageClassificationInferencer, get_model
from mmpretrain.models import ImageClassifier, VisionTransformer, VisionTransformerClsHead

from autoprog_mm.export.checkpoint import export_checkpoint
from tests.micro import STEPS, close, load, micro_config, resume
from tests.test_engine.resuming import run_until
from tests.test_tools import run_tool

ROOT = Path(__file__).parents[3]
# Stages of one epoch; see tests/micro.py. The base is 0 2, then 3 wakes, then 1.
AWAKE = {1: (0, 2), 3: (0, 2, 3), 4: (0, 1, 2, 3)}
KEY = 'backbone.awake_subnet'


@pytest.fixture(scope='module')
def resumed(jpeg_root, tmp_path_factory):
    """Folder of a run that was stopped after three of four epochs and resumed.

    The best checkpoint of its first part is kept as best_early.pth.
    """
    folder = tmp_path_factory.mktemp('resumed')
    cfg = micro_config(
        jpeg_root, folder, train_cfg__max_epochs=4, param_scheduler__1__end=4,
        train_cfg__val_interval=3, default_hooks__checkpoint__save_best='auto')
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    cfg.test_cfg = dict()
    cfg.custom_imports = dict(imports=['autoprog_mm'])
    (folder / 'written').mkdir()
    cfg.dump(folder / 'written' / 'micro.py')
    cfg = Config.fromfile(folder / 'written' / 'micro.py')
    with DefaultScope.overwrite_default_scope(None):
        run_until(cfg, 3 * STEPS)
        best, = folder.glob('best_*.pth')
        assert best.name.endswith('epoch_3.pth')
        best.rename(folder / 'best_early.pth')
        resume(cfg, folder / 'epoch_3.pth')
    # As mmengine has written it, and mmpretrain's own train.py would.
    assert Config.fromfile(folder / 'micro.py').resume is True
    return folder


def by_hand(path, epoch, images):
    """Scores of mmpretrain's own network of the layers that were awake, with the file's weights."""
    weights = load(path)['state_dict']
    layers = AWAKE[epoch]
    stock = ImageClassifier(
        VisionTransformer(
            arch=dict(embed_dims=16, num_layers=len(layers), num_heads=2,
                      feedforward_channels=32), img_size=32, patch_size=8),
        head=VisionTransformerClsHead(num_classes=4, in_channels=16)).eval()
    names = {}
    for name in weights:
        match = re.match(r'backbone\.layers\.(\d+)(\..*)', name)
        if match is None:
            names[name] = name
        elif int(match[1]) in layers:
            names[f'backbone.layers.{layers.index(int(match[1]))}{match[2]}'] = name
    if len(layers) < 4:
        # Stock readers are told, if not by a refusal then by mmengine's list of unexpected keys.
        assert weights[KEY].tolist() == [len(layers), {1: 16, 3: 24}[epoch], 2]
        del names[KEY]
    stock.load_state_dict({ours: weights[theirs] for ours, theirs in names.items()}, strict=True)
    with torch.no_grad():
        return torch.cat([stock(batch) for batch in images.split(8)]).softmax(1)


@pytest.fixture(scope='module')
def images(resumed, jpeg_root):
    """All that is validated, as the pipeline and the preprocessor deliver it."""
    cfg = Config.fromfile(resumed / 'micro.py')
    runner = Runner.from_cfg(cfg)
    runner.model.eval()
    batches = [runner.model.data_preprocessor(batch)['inputs'] for batch in runner.val_dataloader]
    close(runner)
    return torch.cat(batches)


def scores(path):
    return torch.stack([sample['pred_score'] for sample in pickle.loads(path.read_bytes())])


def of_our_test_tool(folder, path, tmp_path, **_):
    out = tmp_path / 'scores.pkl'
    assert run_tool(ROOT / 'tools' / 'test.py', folder / 'micro.py', path, '--work-dir', tmp_path,
                    '--out', out) is None
    return scores(out)


def of_stock_test(folder, path, tmp_path, how='test', **_):
    """As mmpretrain's tools/test.py, with the config that has resume=True."""
    cfg = Config.fromfile(folder / 'micro.py')
    cfg.load_from, cfg.work_dir = str(path), str(tmp_path)
    runner = Runner.from_cfg(cfg)
    evaluator = runner.test_evaluator if how == 'test' else runner.val_evaluator
    evaluator.metrics.append(DumpResults(out_file_path=str(tmp_path / 'scores.pkl')))
    getattr(runner, how)()
    close(runner)
    return scores(tmp_path / 'scores.pkl')


def of_stock_val(**kwargs):
    return of_stock_test(how='val', **kwargs)


def of_the_inferencer(folder, path, jpeg_root, **_):
    inferencer = ImageClassificationInferencer(str(folder / 'micro.py'), pretrained=str(path))
    lines = (jpeg_root / 'meta' / 'val.txt').read_text().split('\n')[:-1]
    paths = [str(jpeg_root / 'val' / line.split()[0]) for line in lines]
    return torch.stack([torch.as_tensor(result['pred_scores'])
                        for result in inferencer(paths, batch_size=8)])


def of_get_model(folder, path, images, prefix='', **_):
    model = get_model(str(folder / 'micro.py'), pretrained=str(path))
    with torch.no_grad():
        return torch.cat([model(batch) for batch in images.split(8)]).softmax(1)


def of_wrapped_weights(folder, path, images, tmp_path, **_):
    """Saved by hand, from within DistributedDataParallel."""
    weights = {f'module.{name}': value for name, value in load(path)['state_dict'].items()}
    torch.save(weights, tmp_path / 'wrapped.pth')
    return of_get_model(folder, tmp_path / 'wrapped.pth', images)


def of_init_cfg(folder, path, images, **_):
    """The parts of a model each by itself; a prefix cuts all but tensors off a state dict."""
    cfg = Config.fromfile(folder / 'micro.py')
    for part in ('backbone', 'head'):
        cfg.model[part].init_cfg = dict(
            type='Pretrained', checkpoint=str(path), prefix=f'{part}.')
    model = get_model(cfg)
    model.init_weights()
    with torch.no_grad():
        return torch.cat([model.eval()(batch) for batch in images.split(8)]).softmax(1)


READERS = (of_our_test_tool, of_stock_test, of_stock_val, of_the_inferencer, of_get_model,
           of_wrapped_weights, of_init_cfg)


@pytest.mark.parametrize('reader', READERS)
@pytest.mark.parametrize('name, epoch', [
    ('epoch_1.pth', 1), ('best_early.pth', 3), ('epoch_4.pth', 4)])
def test_all_readers_agree(resumed, images, jpeg_root, tmp_path, name, epoch, reader):
    path = resumed / name
    got = reader(folder=resumed, path=path, images=images, jpeg_root=jpeg_root, tmp_path=tmp_path)
    assert got.shape == (16, 4)
    assert torch.equal(got, by_hand(path, epoch, images))


@pytest.mark.parametrize('name', ['epoch_1.pth', 'epoch_4.pth'])
def test_what_is_read_are_the_momentum_weights(resumed, name):
    checkpoint = load(resumed / name)
    momentum = checkpoint['optimizer']['momentum']['copies'][-1]
    for key, value in checkpoint['state_dict'].items():
        assert key == KEY or torch.equal(value, momentum[key]), key
    key = 'backbone.layers.0.ffn.layers.1.weight'
    assert not torch.equal(checkpoint['online_state_dict'][key], momentum[key])


@pytest.mark.parametrize('format', ['timm', 'mmpretrain'])
def test_exports_agree_or_refuse(resumed, images, tmp_path, format):
    for name, awake in (('epoch_1.pth', '2x16'), ('best_early.pth', '3x24')):
        with pytest.raises(ValueError, match=f'not finished: only {awake} of 4x32 was awake'):
            export_checkpoint(str(resumed / name), str(tmp_path / 'out.pth'), format)
    export = export_checkpoint(str(resumed / 'epoch_4.pth'), str(tmp_path / 'out.pth'), format)
    names = {}
    exec('\n'.join(export.code), names)
    with torch.no_grad():
        got = torch.cat([names['model'].eval()(batch) for batch in images.split(8)]).softmax(1)
    torch.testing.assert_close(got, by_hand(resumed / 'epoch_4.pth', 4, images), rtol=1e-5,
                               atol=1e-6)


def test_checkpoints_of_older_code(resumed, images, tmp_path):
    """They have what was awake in the hook's state only."""
    checkpoint = load(resumed / 'epoch_1.pth')
    del checkpoint['state_dict'][KEY], checkpoint['online_state_dict'][KEY]
    torch.save(checkpoint, tmp_path / 'old.pth')
    assert torch.equal(of_get_model(resumed, tmp_path / 'old.pth', images),
                       by_hand(resumed / 'epoch_1.pth', 1, images))
    with pytest.raises(ValueError, match='not finished: only 2x16 of 4x32'):
        export_checkpoint(str(tmp_path / 'old.pth'), str(tmp_path / 'out.pth'), 'timm')


def test_a_model_that_reads_one_after_the_other(resumed, images):
    cfg = str(resumed / 'micro.py')
    model = get_model(cfg, pretrained=str(resumed / 'epoch_1.pth'))
    model.load_state_dict(load(resumed / 'epoch_4.pth')['state_dict'], strict=True)
    with torch.no_grad():
        got = torch.cat([model(batch) for batch in images.split(8)]).softmax(1)
    assert torch.equal(got, by_hand(resumed / 'epoch_4.pth', 4, images))


def test_a_test_leaves_the_config_of_the_run(resumed):
    """In the run's own work directory, mmengine would write load_from into it."""
    config = resumed / 'micro.py'
    before = config.read_text()
    assert run_tool(ROOT / 'tools' / 'test.py', config, resumed / 'epoch_4.pth') is None
    assert config.read_text() == before
