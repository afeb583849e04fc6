# Copyright (c) the autoprog_mm authors. All rights reserved.
import pytest
import torch

from tests.test_launch.prepared import make_config, prepare


@pytest.mark.usefixtures('device')
class TestAmp:

    @pytest.mark.parametrize('kind, expected', [
        ('MoGrowOptimWrapper', 'AmpMoGrowOptimWrapper'),
        ('OptimWrapper', 'AmpOptimWrapper'),
        (None, 'AmpOptimWrapper'),
    ])
    def test_amp(self, kind, expected):
        wrapper = dict(optimizer=dict(type='AdamW'))
        if kind:
            wrapper['type'] = kind
        cfg = prepare(make_config(optim_wrapper=wrapper), amp=True)
        assert cfg.optim_wrapper == dict(
            type=expected, optimizer=dict(type='AdamW'), loss_scale='dynamic')

    def test_amp_that_is_on_already(self):
        wrapper = dict(type='AmpMoGrowOptimWrapper', dtype='bfloat16', loss_scale=512.)
        assert prepare(make_config(optim_wrapper=wrapper), amp=True).optim_wrapper == wrapper
        wrapper = dict(type='MoGrowOptimWrapper', loss_scale=512.)
        cfg = prepare(make_config(optim_wrapper=wrapper), amp=True)
        assert cfg.optim_wrapper == dict(type='AmpMoGrowOptimWrapper', loss_scale=512.)

    def test_amp_of_an_unknown_wrapper(self):
        with pytest.raises(ValueError, match="--amp needs optim_wrapper.type .*'ApexOptimWrapper'"):
            prepare(make_config(optim_wrapper=dict(type='ApexOptimWrapper')), amp=True)


class TestCpu:

    @pytest.mark.parametrize('kind, expected', [
        ('AmpMoGrowOptimWrapper', 'MoGrowOptimWrapper'),
        ('AmpOptimWrapper', 'OptimWrapper'),
    ])
    def test_full_precision_instead(self, device, log, kind, expected):
        wrapper = dict(
            type=kind, dtype='bfloat16', loss_scale='dynamic', clip_grad=dict(max_norm=5.),
            optimizer=dict(type='AdamW'))
        device('cuda')
        assert prepare(make_config(optim_wrapper=wrapper)).optim_wrapper == wrapper
        assert log == []
        device('cpu')
        assert prepare(make_config(optim_wrapper=wrapper)).optim_wrapper == dict(
            type=expected, clip_grad=dict(max_norm=5.), optimizer=dict(type='AdamW'))
        assert len(log) == 1
        assert f'training in float32 with {expected} instead of {kind}' in log[0]

    def test_amp_flag(self, device, log):
        device('cpu')
        cfg = prepare(amp=True)
        assert cfg.optim_wrapper == dict(type='MoGrowOptimWrapper', optimizer=dict(type='AdamW'))
        assert len(log) == 1

    def test_amp_in_testing(self, device, log):
        device('cpu')
        cfg = prepare(make_config(test_cfg=dict(fp16=True, type='TestLoop')))
        assert cfg.test_cfg == dict(type='TestLoop')
        assert len(log) == 1 and 'testing in float32' in log[0]

    def test_sync_bn(self, device, log, monkeypatch):
        device('cpu')
        assert prepare(make_config(sync_bn='torch')).sync_bn is None
        assert log == []  # in a single process there is nothing to synchronise
        monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: True)
        assert prepare(make_config(sync_bn='torch'), launcher='pytorch').sync_bn is None
        assert len(log) == 1 and 'BatchNorm is not synchronised' in log[0]

    def test_no_pinned_memory(self, device, log):
        device('cpu')
        cfg = prepare(cfg_options={'train_dataloader.pin_memory': True})
        for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            assert cfg[name].pin_memory is False

    def test_nothing_to_replace(self, device, log):
        device('cpu')
        assert prepare().optim_wrapper.type == 'MoGrowOptimWrapper'
        assert log == []

    @pytest.mark.parametrize('name, launcher, initialized, expected', [
        ('cpu', 'pytorch', False, [('gloo', None)]),
        ('cpu', 'pytorch', True, []),
        ('cpu', 'none', False, []),
        ('cuda', 'pytorch', False, []),
    ])
    def test_launcher(self, device, log, monkeypatch, name, launcher, initialized, expected):
        device(name)
        groups = []
        monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: initialized)
        monkeypatch.setattr(
            torch.distributed, 'init_process_group',
            lambda backend, timeout: groups.append((backend, timeout)))
        monkeypatch.setattr(torch.distributed, 'get_rank', lambda: 1)
        monkeypatch.setattr(torch.distributed, 'get_world_size', lambda: 2)
        monkeypatch.setenv('LOCAL_RANK', '1')
        assert prepare(launcher=launcher).launcher == launcher
        assert groups == expected
        assert len(log) == len(expected) and all('rank 1 of 2' in text for text in log)
