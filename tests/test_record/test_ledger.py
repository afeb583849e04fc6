# Copyright (c) the autoprog_mm authors. All rights reserved.
import copy
import json
import os
from types import SimpleNamespace

import pytest

import autoprog_mm.record.ledger as ledger_module
from autoprog_mm import Subnet
from autoprog_mm.growth.schedule import Stage
from autoprog_mm.record.ledger import Ledger


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands unless it is told to go on."""
    now = SimpleNamespace(time=1000.)
    monkeypatch.setattr(ledger_module, 'time', SimpleNamespace(perf_counter=lambda: now.time))

    def go_on(seconds):
        now.time += seconds

    return go_on


def stage(index):
    return Stage(index, 10 * index, 10 * index + 10, Subnet(6, 128))


def start(operator=None):
    ledger = Ledger('ElasticDeiT', Subnet(12, 224))
    ledger.open()
    ledger.begin_stage(stage(0), Subnet(6, 128), operator)
    return ledger


def seconds(ledger, index=-1):
    return ledger.stages[index]['seconds']


def test_accounts(clock):
    ledger = start()
    clock(1)
    assert ledger.switch('data') == 'train'
    clock(2)
    assert ledger.switch('train') == 'data'
    clock(4)
    ledger.switch('val')
    clock(8)
    ledger.switch('data')
    clock(16)
    ledger.close()
    assert seconds(ledger) == dict(data=18., train=5., search=0., growth=0., val=8.)
    assert ledger.train_seconds == 23.


def test_nested_contexts(clock):
    ledger = start()
    ledger.switch('data')
    clock(1)
    with ledger.on('search'):
        clock(2)
        with ledger.on('growth'):
            clock(4)
        clock(8)
        with pytest.raises(KeyError, match='bad'), ledger.on('val'):
            clock(16)
            raise KeyError('bad')
        clock(32)
    clock(64)
    ledger.close()
    assert seconds(ledger) == dict(data=65., train=0., search=42., growth=4., val=16.)
    assert ledger.train_seconds == 111.


def test_each_stage_has_its_own(clock):
    ledger = start()
    ledger.switch('data')
    clock(1)
    ledger.begin_stage(stage(1), Subnet(12, 224), 'MoGrow')
    clock(2)
    ledger.switch('train')
    clock(4)
    ledger.close()
    assert seconds(ledger, 0) == dict(data=1., train=0., search=0., growth=0., val=0.)
    assert seconds(ledger, 1) == dict(data=2., train=4., search=0., growth=0., val=0.)
    assert ledger.train_seconds == 7.
    assert [entry['operator'] for entry in ledger.stages] == [None, 'MoGrow']


def test_stopped_clock_books_nothing(clock):
    ledger = Ledger('ElasticDeiT', Subnet(12, 224))
    ledger.begin_stage(stage(0), Subnet(6, 128), None)
    assert ledger.switch('data') is None
    with ledger.on('search'):
        clock(1)
    ledger.open()
    clock(2)
    ledger.close()
    clock(4)
    assert ledger.switch('val') is None
    clock(8)
    assert ledger.record()['train_seconds'] == 2.
    assert seconds(ledger) == dict(data=0., train=2., search=0., growth=0., val=0.)


def test_goes_on_from_its_state(clock):
    ledger = start()
    clock(1)
    ledger.switch('val')
    clock(2)
    state = copy.deepcopy(ledger.state_dict())  # books up to now
    clock(4)  # is lost in the kill
    ledger.close()
    assert state['stages'][0]['seconds']['val'] == 2.

    resumed = Ledger('ElasticDeiT', Subnet(12, 224))
    resumed.load_state_dict(state)
    clock(100)  # while nothing ran
    resumed.open()
    clock(8)
    resumed.begin_stage(stage(1), Subnet(12, 224), 'MoGrow')
    clock(16)
    resumed.close()
    assert seconds(resumed, 0) == dict(data=0., train=9., search=0., growth=0., val=2.)
    assert seconds(resumed, 1) == dict(data=0., train=16., search=0., growth=0., val=0.)
    assert resumed.train_seconds == 25.
    assert not resumed.finished


def test_file(clock, tmp_path):
    ledger = start()
    clock(3)
    ledger.record_decision(Subnet(8, 160), dict(
        epochs=2,
        w=0.25,
        candidates=[
            dict(depth=8, resolution=160, time=0.5, flops=750, losses=[6.5, 5.5], loss=6.,
                 score=4.5, chosen=True),
            dict(depth=6, resolution=128, time=0.25, flops=250,
                 losses=[float('nan'), float('inf')], loss=float('nan'), score=-float('inf'),
                 chosen=False),
        ]), 10)
    with ledger.on('val'):
        clock(1)
    path = tmp_path / 'autoprog.json'
    ledger.write(str(path))

    def no_constants(name):
        raise AssertionError(f'{name} is no JSON')

    assert json.loads(path.read_text(), parse_constant=no_constants) == {
        'schema': 2,
        'model': 'ElasticDeiT',
        'full': {'depth': 12, 'resolution': 224},
        'run': None,
        'budget': None,
        'stages': [{
            'index': 0,
            'begin_epoch': 0,
            'end_epoch': 10,
            'subnet': {'depth': 8, 'resolution': 160},
            'operator': None,
            'seconds': {'data': 0., 'train': 3., 'search': 0., 'growth': 0., 'val': 1.},
            'growth': None,
            'search': {
                'epochs': 2,
                'w': 0.25,
                'candidates': [
                    {'depth': 8, 'resolution': 160, 'time': 0.5, 'flops': 750,
                     'losses': [6.5, 5.5], 'loss': 6., 'score': 4.5, 'chosen': True},
                    {'depth': 6, 'resolution': 128, 'time': 0.25, 'flops': 250,
                     'losses': [None, None], 'loss': None, 'score': None, 'chosen': False},
                ]
            }
        }],
        'train_seconds': 3.,
        'finished': False,
        'stopped_after': None
    }
    # The file is a view; what it can't hold stays in the record.
    assert ledger.stages[0]['search']['candidates'][1]['losses'][1] == float('inf')


def test_file_books_up_to_now(clock, tmp_path):
    ledger = start()
    path = tmp_path / 'autoprog.json'
    for expected in (5., 10.):
        clock(5)
        ledger.write(str(path))
        assert json.loads(path.read_text())['train_seconds'] == expected


def test_stage_without_search(clock, tmp_path):
    ledger = start(operator='MoGrow')
    ledger.write(str(tmp_path / 'autoprog.json'))
    entry = json.loads((tmp_path / 'autoprog.json').read_text())['stages'][0]
    assert entry['search'] is None
    assert entry['operator'] == 'MoGrow'


def test_growth_is_entered(clock):
    ledger = start()
    ledger.record_growth(Subnet(6, 128), 2.5, None)
    assert ledger.record()['stages'][-1]['growth'] == {
        'from': {'depth': 6, 'resolution': 128}, 'loss_before': 2.5, 'loss_after': None}


def test_seconds_of_accounts(clock):
    ledger = start()
    clock(3)
    with ledger.on('val'):
        clock(2)
    clock(1)
    assert ledger.seconds('train', 'data') == 4.
    assert ledger.seconds('val') == 2.


def test_file_is_whole_or_old(clock, tmp_path, monkeypatch):
    ledger = start()
    path = tmp_path / 'autoprog.json'
    ledger.write(str(path))
    before = path.read_text()
    clock(5)

    def killed(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, 'replace', killed)
    with pytest.raises(KeyboardInterrupt):
        ledger.write(str(path))
    assert path.read_text() == before


@pytest.mark.parametrize('epochs, finished', [(5, True), (3, False)])
def test_a_run_that_ends(clock, epochs, finished):
    """A stage that was to end at epoch 5."""
    ledger = start()
    clock(3)
    ledger.stages[-1]['end_epoch'] = 5
    ledger.finish(epochs, 5)
    clock(100)
    record = ledger.record()
    assert record['finished'] is finished
    assert record['stopped_after'] == (None if finished else 3)
    assert record['stages'][-1]['end_epoch'] == epochs
    assert record['train_seconds'] == 3
