# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Seeds, generators and files."""
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.fileio import get_file_backend

from autoprog_mm.utils import derive_seed, resize_batch, seed_sample, seed_step, write_atomically
from autoprog_mm.utils.files import AtomicLocalBackend

ROOT = Path(__file__).parents[2]


class TestDeriveSeed:
    # The first 8 bytes of BLAKE2b of "(0, 'step', 120, 3)", little end first,
    # halved, by a script of its own.
    SEED = 1654289757215350830

    def test_value(self):
        assert derive_seed(0, 'step', 120, 3) == self.SEED
        assert derive_seed(7) == 843011692241435484

    @pytest.mark.parametrize('hash_seed', ['0', '1'])
    def test_same_in_other_processes(self, hash_seed):
        output = subprocess.run(
            [sys.executable, '-c',
             'import importlib.util as u, sys\n'
             's = u.spec_from_file_location("r", sys.argv[1])\n'
             'm = u.module_from_spec(s)\n'
             's.loader.exec_module(m)\n'
             'print(m.derive_seed(0, "step", 120, 3))',
             str(ROOT / 'autoprog_mm' / 'utils' / 'randomness.py')],
            env={**os.environ, 'PYTHONHASHSEED': hash_seed},
            check=True, capture_output=True, text=True).stdout
        assert int(output) == self.SEED

    def test_distinct(self):
        seeds = [derive_seed(seed, 'epoch', epoch, rank, place) for seed in range(3)
                 for epoch in range(10) for rank in range(4) for place in range(50)]
        seeds += [derive_seed(seed, 'step', epoch, rank) for seed in range(3)
                  for epoch in range(10) for rank in range(4)]
        # Keys do not run into each other.
        seeds += [derive_seed(1, 23), derive_seed(12, 3), derive_seed('1', 23), derive_seed(123)]
        assert len(set(seeds)) == len(seeds) == 6124
        assert all(0 <= seed < 2**63 for seed in seeds)
        assert max(seeds) > 2**62  # all of the 63 bits are in use


def draw():
    return random.random(), np.random.rand(), torch.rand(()).item()


@pytest.mark.parametrize('seed_it', [seed_sample, seed_step])
def test_seeding_covers_all_generators(seed_it):
    seed_it(derive_seed(0))
    first = draw()
    second = draw()
    seed_it(derive_seed(0))
    assert draw() == first
    seed_it(derive_seed(1))
    other = draw()
    assert all(a != b and a != c for a, b, c in zip(first, second, other))


def test_seed_sample_leaves_devices_alone(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, 'manual_seed_all', calls.append)
    seed_sample(5)
    assert calls == []
    seed_step(5)
    assert calls == [5]


class TestWriteAtomically:

    def test_writes_and_overwrites(self, tmp_path):
        path = tmp_path / 'record.json'
        write_atomically(str(path), 'eins\n')
        write_atomically(str(path), 'zwölf\n')
        assert path.read_bytes() == b'zw\xc3\xb6lf\n'
        assert os.listdir(tmp_path) == ['record.json']

    @pytest.mark.parametrize('step', ['fsync', 'replace'])
    def test_old_content_survives_a_crash(self, tmp_path, monkeypatch, step):
        path = tmp_path / 'record.json'
        write_atomically(str(path), 'old')

        def crash(*args):
            raise OSError('no space left')

        monkeypatch.setattr(os, step, crash)
        with pytest.raises(OSError, match='no space left'):
            write_atomically(str(path), 'new')
        assert path.read_text() == 'old'

    def test_is_on_the_disk_before_it_has_the_name(self, tmp_path, monkeypatch):
        order = []
        fsync, replace = os.fsync, os.replace
        monkeypatch.setattr(os, 'fsync', lambda *args: (order.append('fsync'), fsync(*args)))
        monkeypatch.setattr(os, 'replace', lambda *args: (order.append('replace'), replace(*args)))
        write_atomically(str(tmp_path / 'record.json'), 'text')
        # The new name, too.
        assert order == ['fsync', 'replace', 'fsync']


class TestAtomicLocalBackend:

    def test_is_registered(self, tmp_path):
        backend = get_file_backend(
            str(tmp_path), backend_args=dict(backend='AtomicLocalBackend'))
        assert isinstance(backend, AtomicLocalBackend)

    @pytest.mark.parametrize('kind', [str, Path])
    def test_put_and_get(self, tmp_path, kind):
        path = tmp_path / 'new' / 'folder' / 'epoch_1.pth'
        backend = AtomicLocalBackend()
        backend.put(b'\x00\xff', kind(path))
        assert backend.get(path) == b'\x00\xff'
        assert os.listdir(path.parent) == ['epoch_1.pth']

    def test_name_without_folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        AtomicLocalBackend().put(b'x', 'epoch_1.pth')
        assert (tmp_path / 'epoch_1.pth').read_bytes() == b'x'

    def test_old_content_survives_a_crash(self, tmp_path, monkeypatch):
        path = tmp_path / 'epoch_1.pth'
        backend = AtomicLocalBackend()
        backend.put(b'old', path)

        def killed(descriptor):
            raise KeyboardInterrupt

        monkeypatch.setattr(os, 'fsync', killed)
        with pytest.raises(KeyboardInterrupt):
            backend.put(b'new', path)
        assert path.read_bytes() == b'old'


class TestResizeBatch:

    def test_values(self):
        images = torch.tensor([[[[0., 2.], [4., 6.]]]])
        # Centres of the four new pixels of a row lie at -1/4, 1/4, 3/4 and
        # 5/4 of the way from the first old one to the second.
        rows = torch.tensor([0., 0.5, 1.5, 2.])
        expected = (2 * rows[:, None] + rows[None, :]).view(1, 1, 4, 4)
        torch.testing.assert_close(resize_batch(images, 4), expected)
        assert resize_batch(images, 1).item() == 3.

    def test_integers(self):
        images = torch.tensor([[[[0, 255], [0, 255]]]], dtype=torch.uint8).expand(2, 3, 2, 2)
        resized = resize_batch(images, 1)
        assert resized.dtype == torch.float32
        assert resized.shape == (2, 3, 1, 1)
        assert (resized == 127.5).all()

    @pytest.mark.parametrize('resolution', [None, 8])
    def test_same_size_is_left_as_it_is(self, resolution):
        images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
        assert resize_batch(images, resolution) is images

    def test_not_square(self):
        assert resize_batch(torch.zeros(1, 3, 8, 4), 8).shape == (1, 3, 8, 8)

    def test_a_full_disk_is_not_filled_with_halves(self, tmp_path, monkeypatch):
        def full(*args):
            raise OSError(28, 'No space left on device')

        monkeypatch.setattr(os, 'fsync', full)
        with pytest.raises(OSError, match='No space left'):
            write_atomically(str(tmp_path / 'record.json'), 'text')
        assert os.listdir(tmp_path) == []
