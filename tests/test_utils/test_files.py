# Copyright (c) the autoprog_mm authors. All rights reserved.
import os
from pathlib import Path

import pytest
from mmengine.fileio import get_file_backend

from autoprog_mm.utils.files import UNFINISHED, AtomicLocalBackend, replacing, write_atomically


class TestWriteAtomically:

    def test_writes_and_overwrites(self, tmp_path):
        path = tmp_path / 'record.json'
        write_atomically(str(path), 'eins\n')
        write_atomically(str(path), 'zwölf\n')
        assert path.read_bytes() == b'zw\xc3\xb6lf\n'
        assert os.listdir(tmp_path) == ['record.json']

    @pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs a device that is full')
    def test_a_device_stays_one(self, tmp_path, monkeypatch):
        monkeypatch.setattr(os, 'replace', lambda *args: pytest.fail(f'replaced {args}'))
        with pytest.raises(OSError, match='No space left'):
            write_atomically('/dev/full', 'text')
        reading, writing = os.pipe()
        write_atomically(f'/dev/fd/{writing}', 'text')
        assert os.read(reading, 9) == b'text'
        os.close(reading), os.close(writing)

    def test_a_link_stays_one(self, tmp_path):
        (tmp_path / 'elsewhere').mkdir()
        link = tmp_path / 'link.json'
        link.symlink_to('elsewhere/record.json')
        for text in ('first', 'second'):  # which is not there at first
            write_atomically(link, text)
            assert link.is_symlink()
            assert (tmp_path / 'elsewhere' / 'record.json').read_text() == text

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


    def test_a_full_disk_is_not_filled_with_halves(self, tmp_path, monkeypatch):
        def full(*args):
            raise OSError(28, 'No space left on device')

        monkeypatch.setattr(os, 'fsync', full)
        with pytest.raises(OSError, match='No space left'):
            write_atomically(str(tmp_path / 'record.json'), 'text')
        assert os.listdir(tmp_path) == []

    def test_many_small_files_are_not_synced(self, tmp_path, monkeypatch):
        monkeypatch.setattr(os, 'fsync', None)  # to call it is an error
        write_atomically(tmp_path / 'a.pt', b'bytes', durable=False)
        assert (tmp_path / 'a.pt').read_bytes() == b'bytes' and os.listdir(tmp_path) == ['a.pt']

    @pytest.mark.parametrize('durable', [True, False])
    def test_replacing(self, tmp_path, durable):
        """By what a block writes, and only if it ends well; a kill leaves what can be told."""
        path = tmp_path / 'a.pth'
        path.write_text('old')
        with pytest.raises(ZeroDivisionError), replacing(path, durable) as beside:
            Path(beside).write_text('new')
            assert UNFINISHED.search(beside) and Path(beside).parent == tmp_path
            assert path.read_text() == 'old'
            1 / 0  # noqa: B018
        assert path.read_text() == 'old' and os.listdir(tmp_path) == ['a.pth']
        with replacing(path, durable) as beside:
            Path(beside).write_text('new')
        assert path.read_text() == 'new' and os.listdir(tmp_path) == ['a.pth']
        assert not UNFINISHED.search('a.pth') and not UNFINISHED.search('a.tmp')


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
