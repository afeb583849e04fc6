# Copyright (c) the autoprog_mm authors. All rights reserved.
import pytest
import torch
from mmengine.runner.checkpoint import CheckpointLoader

from autoprog_mm.models import SAVED_IN_MODEL, read_weights
from autoprog_mm.utils import UserError

STAGES = [[0, 2, 6, 128], [2, 4, 8, 160], [4, 6, 12, 224]]


def save(path, **changes):
    torch.save({**dict(state_dict={'backbone.a': torch.ones(2)}), **changes}, path)
    return path


@pytest.mark.parametrize('subnet, saved', [((8, 160), [8, 160, 6]), ((12, 224), None),
                                           ((12, 160), None)])
def test_what_was_awake_in_checkpoints_of_older_code(tmp_path, subnet, saved):
    path = save(tmp_path / 'old.pth', autoprog=dict(subnet=subnet, stages=STAGES))
    for weights in (read_weights(path)['state_dict'],
                    CheckpointLoader.load_checkpoint(str(path))['state_dict']):
        assert (weights.get(SAVED_IN_MODEL) is None) == (saved is None)
        assert saved is None or weights[SAVED_IN_MODEL].tolist() == saved


@pytest.mark.parametrize('state', [{}, [1], dict(subnet=3, stages=STAGES), dict(subnet=(6, 128))])
def test_a_state_that_does_not_say_it(tmp_path, state):
    with pytest.raises(UserError, match="old.pth' does not say what was awake"):
        read_weights(save(tmp_path / 'old.pth', autoprog=state))


def test_addresses(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'hub'))
    path = save(tmp_path / 'some.pth')
    assert 'backbone.a' in read_weights(f'file://{path}')['state_dict']
    path.unlink()
    assert 'backbone.a' in read_weights(f'file://{path}')['state_dict']  # of the cache
    with pytest.raises(UserError, match='gone.pth cannot be downloaded'):
        read_weights(f'file://{tmp_path}/gone.pth')
