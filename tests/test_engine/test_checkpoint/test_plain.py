# Copyright (c) the autoprog_mm authors. All rights reserved.
import copy
import datetime
import io
import pickle
from collections import OrderedDict, defaultdict, namedtuple
from enum import IntEnum

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.optim import CosineAnnealingLR

import autoprog_mm.engine.checkpoint.plain as plain_module
from autoprog_mm.engine.checkpoint import pack, to_plain, unpack


@pytest.fixture
def warnings_logged(monkeypatch):
    messages = []
    monkeypatch.setattr(
        plain_module, 'print_log', lambda text, **kwargs: messages.append(text))
    return messages


def through_a_file(checkpoint):
    file = io.BytesIO()
    torch.save(checkpoint, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def like_mmengines():
    """A checkpoint with all that ``Runner.save_checkpoint`` puts into one."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.arange(6.).view(2, 3)).square().sum().backward()
    optimizer.step()
    scheduler = CosineAnnealingLR(optimizer, T_max=4, by_epoch=True)
    scheduler.step()
    hub = MessageHub('test_checkpoint')
    for loss in (3., 2.5, float('nan')):
        hub.update_scalar('train/loss', torch.tensor(loss), count=2)
    hub.update_scalar('train/lr', np.float32(0.25))
    hub.update_info('epoch', 3)
    hub.update_info('best_score', np.float64(71.5))
    hub.update_info('keep_ckpt_ids', [2, 3])
    hub.update_info('dataset_meta', dict(classes=('cat', 'dog')))
    hub.update_info('last_ckpt', 'work_dirs/epoch_3.pth')
    return dict(
        meta=dict(
            epoch=3,
            iter=np.int64(300),
            cfg='a = 1',
            seed=7,
            time='20240101_000000',
            dataset_meta=dict(classes=('cat', 'dog'), palette=None)),
        state_dict=model.state_dict(),
        message_hub=hub.state_dict(),
        optimizer=dict(optimizer.state_dict(), ema=[dict(w=torch.ones(2, dtype=torch.bfloat16))]),
        param_schedulers=[scheduler.state_dict()])


def test_the_like_of_mmengines_needs_packing():
    with pytest.raises(pickle.UnpicklingError, match='[Ww]eights'):
        through_a_file(like_mmengines())


def test_packed_loads_without_running_code(warnings_logged):
    original = like_mmengines()
    checkpoint = copy.copy(original)
    pack(checkpoint)
    loaded = through_a_file(checkpoint)
    assert warnings_logged == []
    assert loaded.keys() == original.keys()

    assert loaded['meta'] == original['meta']
    assert type(loaded['meta']['iter']) is int
    assert isinstance(loaded['meta']['dataset_meta']['classes'], tuple)

    weights = loaded['state_dict']
    assert isinstance(weights, OrderedDict)
    assert list(weights) == list(original['state_dict'])
    assert all(torch.equal(weights[name], value) for name, value in original['state_dict'].items())
    # By it, BatchNorm knows that it has the number of batches.
    assert weights._metadata == original['state_dict']._metadata
    assert weights._metadata['1'] == dict(version=2)

    moments, expected = (c['optimizer']['state'] for c in (loaded, original))
    assert list(moments) == [0, 1, 2, 3]
    for key in moments:
        assert moments[key].keys() == expected[key].keys()
        assert all(torch.equal(moments[key][name], expected[key][name]) for name in expected[key])
    assert loaded['optimizer']['param_groups'] == original['optimizer']['param_groups']
    assert loaded['optimizer']['ema'][0]['w'].dtype == torch.bfloat16
    assert loaded['param_schedulers'] == original['param_schedulers']


def test_unpack_restores_the_message_hub():
    checkpoint = like_mmengines()
    pack(checkpoint)
    loaded = through_a_file(checkpoint)
    unpack(loaded)
    scalars = loaded['message_hub']['log_scalars']
    assert isinstance(scalars['train/loss'], HistoryBuffer)
    log, count = scalars['train/loss'].data
    np.testing.assert_array_equal(log, [3., 2.5, float('nan')])
    np.testing.assert_array_equal(count, [2, 2, 2])
    assert scalars['train/loss'].max_length == 1000000
    assert scalars['train/lr'].current() == 0.25

    hub = MessageHub('test_checkpoint_resumed')
    hub.load_state_dict(loaded['message_hub'])
    assert hub.get_scalar('train/lr').statistics('mean', 1) == 0.25
    assert hub.get_info('best_score') == 71.5
    assert hub.get_info('keep_ckpt_ids') == [2, 3]
    hub.update_scalar('train/loss', 1.)
    assert hub.get_scalar('train/loss').current() == 1.


@pytest.mark.parametrize('buffer', [
    HistoryBuffer(),
    HistoryBuffer([1, 2, 3], [1, 1, 4]),
    HistoryBuffer([0.1, float('inf')], [1, 2], max_length=2),
], ids=['empty', 'integers', 'full'])
def test_history_buffers_come_back_equal(buffer):
    checkpoint = dict(message_hub=dict(log_scalars=OrderedDict(x=copy.deepcopy(buffer))))
    pack(checkpoint)
    loaded = through_a_file(checkpoint)
    unpack(loaded)
    result = loaded['message_hub']['log_scalars']['x']
    for expected, got in zip(buffer.data, result.data):
        np.testing.assert_array_equal(got, expected)
    assert result.max_length == buffer.max_length
    result.update(9.)
    assert result.current() == 9.
    assert len(result.data[0]) == min(len(buffer.data[0]) + 1, buffer.max_length)


class Level(IntEnum):
    HIGH = 2


@pytest.mark.parametrize('value, expected', [
    (np.float32(0.5), 0.5),
    (np.bool_(True), True),
    (np.str_('top1'), 'top1'),
    (Level.HIGH, 2),
    (ConfigDict(a=dict(b=1)), dict(a=dict(b=1))),
    (defaultdict(list, {3: [1]}), {3: [1]}),
    (namedtuple('Point', 'x y')(1, np.int8(2)), (1, 2)),
    ({1, 2}, {1, 2}),
    (torch.Size([2, 3]), (2, 3)),
    (torch.float16, torch.float16),
    (torch.device('cpu'), torch.device('cpu')),
    ((None, b'x', 1.5, True), (None, b'x', 1.5, True)),
])
def test_becomes_plain(value, expected):
    left_out = []
    plain = to_plain(dict(x=value), left_out=left_out)
    assert left_out == []
    assert through_a_file(plain) == dict(x=expected)
    assert type(plain['x']) is type(expected)


def test_arrays_become_tensors():
    array = np.arange(6, dtype=np.int32).reshape(2, 3).T
    loaded = through_a_file(to_plain(dict(x=array)))
    assert loaded['x'].dtype == torch.int32
    assert loaded['x'].tolist() == [[0, 3], [1, 4], [2, 5]]


class RunsCode:

    def __reduce__(self):
        return print, ('this must not run',)


def test_what_is_not_plain_is_left_out_with_a_warning(warnings_logged):
    checkpoint = dict(
        meta=dict(when=datetime.date(2024, 1, 1), epoch=1),
        hooks=[dict(state=RunsCode()), 5])
    pack(checkpoint)
    assert through_a_file(checkpoint) == dict(
        meta=dict(when=None, epoch=1), hooks=[dict(state=None), 5])
    assert len(warnings_logged) == 1
    assert 'meta.when (date)' in warnings_logged[0]
    assert 'hooks[0].state (RunsCode)' in warnings_logged[0]


def test_unpack_drops_the_config_text():
    checkpoint = dict(meta=dict(config='import os', cfg='a = 1', epoch=1))
    unpack(checkpoint)
    assert checkpoint == dict(meta=dict(cfg='a = 1', epoch=1))


@pytest.mark.parametrize('checkpoint', [
    dict(state_dict={}),
    dict(meta={}, message_hub=dict(log_scalars={}, runtime_info={})),
    dict(message_hub=dict(log_scalars=dict(x=1.))),
])
def test_unpack_of_others_checkpoints(checkpoint):
    before = copy.deepcopy(checkpoint)
    unpack(checkpoint)
    assert checkpoint == before
