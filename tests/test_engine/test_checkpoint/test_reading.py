# Copyright (c) the autoprog_mm authors. All rights reserved.
import os
from collections import OrderedDict

import pytest
import torch
from mmengine.logging import HistoryBuffer

from autoprog_mm.engine.checkpoint import check_whole, load_plain, newest_whole
from tests.micro import differences


def a_run(**changes):
    state = dict(
        meta=dict(epoch=2, iter=12), state_dict=OrderedDict(a=torch.arange(64.)),
        optimizer=dict(state={0: dict(step=torch.tensor(3.), exp_avg=torch.ones(64))}),
        param_schedulers=[dict(last_step=12)], message_hub=dict(runtime_info={}))
    return {**state, **changes}


@pytest.fixture
def whole(tmp_path):
    path = tmp_path / 'epoch_2.pth'
    torch.save(a_run(), path)
    return path


class Trap:
    """Makes a file when it is unpickled."""

    path = 'trapped'

    def __reduce__(self):
        return open, (self.path, 'w')


def test_whole(whole):
    check_whole(str(whole))
    assert load_plain(str(whole))['meta'] == dict(epoch=2, iter=12)


class Allowed:
    pass


def test_the_allow_list_is_empty_while_loading(whole):
    torch.save(a_run(message_hub=Allowed()), whole)
    torch.serialization.add_safe_globals([Allowed])
    with pytest.raises(ValueError, match='could run code when loaded .*Allowed'):
        load_plain(str(whole))
    assert torch.serialization.get_safe_globals() == [Allowed]


@pytest.mark.parametrize('keep', [0, 1, 100, 0.5, -1, -30])
def test_truncated(whole, keep):
    content = whole.read_bytes()
    whole.write_bytes(content[:int(keep * len(content)) if keep == 0.5 else keep])
    with pytest.raises(ValueError, match=r"epoch_2\.pth' is not whole"):
        check_whole(str(whole))


def test_any_flipped_bit_is_found_or_harmless(whole):
    """Padding between records has no checksum, and no effect."""
    content = whole.read_bytes()
    expected = load_plain(str(whole))
    found = harmless = 0
    for place in range(0, len(content), 17):
        spoiled = bytearray(content)
        spoiled[place] ^= 1 << place % 8
        whole.write_bytes(spoiled)
        try:
            check_whole(str(whole))
        except ValueError as error:
            assert 'epoch_2.pth' in str(error)
            found += 1
        else:
            assert differences(expected, load_plain(str(whole))) == []
            harmless += 1
    assert found > 40 and harmless


def test_tensors_are_among_what_is_checked(whole):
    content = whole.read_bytes()
    place = content.index(torch.arange(64.).numpy().tobytes())
    whole.write_bytes(content[:place + 9] + bytes([content[place + 9] ^ 4]) + content[place + 10:])
    assert torch.load(whole, weights_only=True)['state_dict']['a'].shape == (64, )  # torch is blind
    with pytest.raises(ValueError, match='the checksum of .* is wrong'):
        check_whole(str(whole))


@pytest.mark.parametrize('changes, match', [
    (dict(message_hub=Trap()), 'could run code'),
    (dict(meta=Trap()), 'could run code'),
    (dict(optimizer=HistoryBuffer([1.], [1])), 'could run code'),
    (dict(state_dict=dict(a=1)), "no 'state_dict' of tensors"),
    (dict(meta=dict(epoch=2)), 'no epoch and iter'),
    (dict(meta=[2, 12]), 'no epoch and iter'),
])
def test_not_of_a_run(whole, monkeypatch, tmp_path, changes, match):
    monkeypatch.setattr(Trap, 'path', str(tmp_path / 'trapped'))
    torch.save(a_run(**changes), whole)
    with pytest.raises(ValueError, match=match):
        check_whole(str(whole))
    assert not (tmp_path / 'trapped').exists()


def test_weights_alone_are_no_run(whole):
    state = a_run()
    del state['optimizer'], state['message_hub']
    torch.save(state, whole)
    with pytest.raises(ValueError, match='has no optimizer and no message_hub.*best'):
        check_whole(str(whole))


def test_newest_whole(tmp_path):
    for second, name in enumerate(['epoch_10.pth', 'epoch_9.pth', 'iter_70.pth', 'epoch_11.pth',
                                   'best_top1_epoch_11.pth', 'epoch_12.pth.tmp']):
        torch.save(a_run(), tmp_path / name)
        os.utime(tmp_path / name, (second, second))
    pattern = r'epoch_\d+\.pth|iter_\d+\.pth'
    assert newest_whole(str(tmp_path), pattern) == (str(tmp_path / 'epoch_11.pth'), [])
    (tmp_path / 'epoch_11.pth').write_bytes(b'')
    os.utime(tmp_path / 'epoch_11.pth', (9, 9))
    path, passed_over = newest_whole(str(tmp_path), pattern)
    assert path == str(tmp_path / 'iter_70.pth')
    assert len(passed_over) == 1 and 'epoch_11.pth' in passed_over[0]
    assert newest_whole(str(tmp_path / 'nowhere'), pattern) == (None, [])
