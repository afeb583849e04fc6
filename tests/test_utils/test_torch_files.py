# Copyright (c) the autoprog_mm authors. All rights reserved.
import argparse
import builtins
import collections
import http.server
import os
import threading
from functools import partial

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer, MessageHub

from autoprog_mm.utils import UserError, torch_files
from autoprog_mm.utils.torch_files import download, load_file, load_weights

WEIGHTS = collections.OrderedDict(a=torch.arange(3.), b=torch.ones(2, 2))


class Trap:

    def __reduce__(self):
        return builtins.open, ('touched', 'w')


class OwnList(list):
    pass


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def stock_checkpoint(**changes):
    """As mmengine saves it."""
    hub = MessageHub('test_torch_files')
    hub.update_scalar('train/loss', 1.)
    hub.update_info('best', np.float64(3))
    assert isinstance(hub.state_dict()['log_scalars']['train/loss'], HistoryBuffer)
    return {**dict(meta=dict(epoch=3, dataset_meta=dict(classes=('cat', 'dog'))),
                   state_dict=WEIGHTS, message_hub=hub.state_dict(), optimizer=dict(state={})),
            **changes}


def assert_weights(loaded):
    assert loaded['state_dict'].keys() == WEIGHTS.keys()
    assert all(torch.equal(loaded['state_dict'][name], WEIGHTS[name]) for name in WEIGHTS)


def test_stock_checkpoint():
    torch.save(stock_checkpoint(), 'stock.pth')
    with pytest.raises(UserError, match='HistoryBuffer.*was not loaded'):
        load_file('stock.pth')
    loaded = load_weights('stock.pth')
    assert_weights(loaded)
    assert loaded.keys() == {'meta', 'state_dict', 'optimizer'}
    assert loaded['meta']['dataset_meta'] == dict(classes=('cat', 'dog'))


@pytest.mark.parametrize('value', [
    Trap(), [Trap()], {Trap(): 1}, dict(a=(1, {Trap()})), np.ones(3), ConfigDict(a=1)])
def test_entries_with_objects_are_left_out_and_run_nothing(value):
    torch.save(stock_checkpoint(message_hub=value), 'in.pth')
    before = set(torch.serialization.get_safe_globals())
    loaded = load_weights('in.pth')
    assert_weights(loaded)
    assert 'message_hub' not in loaded
    assert os.listdir() == ['in.pth']
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize('content, zipped, match', [
    (stock_checkpoint(message_hub=OwnList([1])), True, 'OwnList.*keep only its weights'),
    (stock_checkpoint(message_hub=Trap()), False, r'open\), so it was not loaded'),
    (stock_checkpoint(state_dict=Trap()), True, 'has no weights'),
    (dict(state_dict=[1]), True, 'has no weights'),
    ([torch.ones(1)], True, 'has no weights'),
    (torch.ones(1), True, 'has no weights'),
])
def test_refused(content, zipped, match):
    torch.save(content, 'in.pth', _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=f"^'in.pth' .*{match}"):
        load_weights('in.pth')
    assert os.listdir() == ['in.pth']


@pytest.mark.parametrize('content', [
    WEIGHTS, dict(WEIGHTS), dict(model=WEIGHTS), dict(state_dict=WEIGHTS),
    {f'module.{name}': value for name, value in WEIGHTS.items()},
    dict(model={f'module.{name}': value for name, value in WEIGHTS.items()}, epoch=3),
    {f'_orig_mod.module.{name}': value for name, value in WEIGHTS.items()}])
@pytest.mark.parametrize('zipped', [True, False])
def test_where_weights_may_be(content, zipped):
    """In DeiT's files (not zipped), timm's, and those of wrapped and compiled models."""
    torch.save(content, 'in.pth', _use_new_zipfile_serialization=zipped)
    assert_weights(load_weights('in.pth'))


@pytest.mark.parametrize('key, average', [('model', 'model_ema'), ('state_dict', 'state_dict_ema')])
def test_weights_beside_averages_are_told(key, average):
    """As DeiT's and timm's training save them, with their arguments."""
    ema = {name: value + 1 for name, value in WEIGHTS.items()}
    torch.save({key: WEIGHTS, average: ema, 'args': argparse.Namespace(lr=1)}, 'in.pth')
    lines = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_files, 'print_log', lambda text, *_: lines.append(text))
        loaded = load_weights('in.pth')
    assert_weights(loaded)
    assert 'args' not in loaded
    assert lines == [f"'in.pth' has {average}, too; the weights under {key!r} are taken. For "
                     'others, save them in a file of their own.']


def test_metadata_of_modules_is_kept():
    torch.save(dict(state_dict=torch.nn.BatchNorm2d(3).state_dict()), 'in.pth')
    assert load_weights('in.pth')['state_dict']._metadata == {'': dict(version=2)}


def test_missing_files_and_home(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="^there is no file 'gone.pth'"):
        load_weights('gone.pth')
    monkeypatch.setenv('HOME', str(tmp_path))
    torch.save(WEIGHTS, 'in.pth')
    assert_weights(load_weights('~/in.pth'))


def test_download(tmp_path):
    torch.save(WEIGHTS, 'in.pth')
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    handler.log_message = lambda *args: None
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f'http://127.0.0.1:{server.server_port}'
        path = download(f'{address}/in.pth?a=b', str(tmp_path / 'cache'))
        assert path == str(tmp_path / 'cache' / 'in.pth')
        with pytest.raises(UserError, match='/gone.pth cannot be downloaded .*404.*give the path'):
            download(f'{address}/gone.pth', str(tmp_path / 'cache'))
        server.shutdown()
    assert_weights(load_weights(path))
    assert download(f'{address}/in.pth', str(tmp_path / 'cache')) == path  # it is there
