# Copyright (c) the autoprog_mm authors. All rights reserved.
"""tools/prepare_dataset.py."""
import autoprog_mm  # noqa: F401  isort: skip  (before anything that imports torchvision)

import json
import os
import signal
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmpretrain.datasets import CustomDataset

from autoprog_mm.datasets.class_images import find_images
from tests.forked import Forked
from tests.test_tools import load_tool

TOOL = Path(__file__).parents[2] / 'tools' / 'prepare_dataset.py'

NUM_LINKS = 4000


@pytest.fixture(scope='module')
def tool():
    return load_tool(TOOL)


@pytest.fixture
def call(tool, monkeypatch, capsys):
    """Run the tool in this process."""

    def call(*args):
        monkeypatch.setattr(sys, 'argv', ['prepare_dataset.py', *map(str, args)])
        monkeypatch.setattr(tool.signal, 'signal', lambda *_: None)
        status = tool.main()
        return status, capsys.readouterr().out

    return call


@pytest.fixture
def source(tmp_path):
    """Two classes of six images, two of them small, and a text."""
    root = tmp_path / 'source'
    for number in range(12):
        path = root / f'class_{number % 2}' / f'{number}.JPEG'
        path.parent.mkdir(parents=True, exist_ok=True)
        side = 20 if number < 2 else 90 + number
        image = np.random.RandomState(number).randint(0, 256, (side, side + 9, 3), dtype=np.uint8)
        path.write_bytes(cv2.imencode('.jpg', image)[1].tobytes())
    (root / 'readme.txt').write_text('no image')
    return root


def content(root):
    return {str(path.relative_to(root)): path.read_bytes()
            for path in sorted(root.rglob('*')) if path.is_file()}


def test_makes_a_copy_and_goes_on(source, tmp_path, call):
    target = tmp_path / 'deep' / 'target'
    args = source, target, '--short-side', 32, '--processes', 2
    status, output = call(*args)
    assert status == 0
    assert '12 images: 0 were there, 10 resized and 2 copied as they are' in output
    made = content(target)
    assert set(made) == {'prepared.json', *content(source)} - {'readme.txt'}
    assert json.loads(made['prepared.json']) == dict(short_side=32, quality=90)
    sizes = [sum(map(len, content(root / c).values())) for root in (source, target)
             for c in ('class_0', 'class_1')]
    before, after = sum(sizes[:2]), sum(sizes[2:])
    assert f'{before:,} bytes became {after:,}: {before - after:,} saved, ' \
           f'{before / after:.2f} to 1.' in output
    assert len(CustomDataset(data_root=str(target), pipeline=[])) == 12

    status, output = call(*args)
    assert status == 0 and '12 images: 12 were there, 0 resized and 0 copied' in output
    # What a kill and a power cut leave.
    (target / 'class_0' / '4.JPEG').write_bytes(b'')
    (target / 'class_1' / '5.JPEG').write_bytes(made['class_1/5.JPEG'][:-9])
    (target / 'class_1' / '7.JPEG').unlink()
    (target / 'class_1' / '7.JPEG.123.tmp').write_bytes(b'half')
    status, output = call(*args)
    assert status == 0 and '12 images: 9 were there, 3 resized and 0 copied' in output
    assert content(target) == made


def test_failures_are_listed_at_the_end(source, tmp_path, call):
    (source / 'class_0' / '4.JPEG').write_bytes(b'no image')
    status, output = call(source, tmp_path / 'target', '--short-side', 32, '--processes', 1)
    assert status == 1
    assert ('No copy was made of 1 images:\n'
            '  class_0/4.JPEG: ValueError: the image cannot be read\n') in output
    assert output.endswith(f"12 images in {source}, 11 in {tmp_path / 'target'}.\n")
    assert '9 resized and 2 copied' in output
    assert not (tmp_path / 'target' / 'class_0' / '4.JPEG').exists()


def test_same_images_as_training(source, tmp_path, call):
    """All types, in any case; what training passes over is not copied either."""
    image = np.full((40, 50, 3), 90, np.uint8)
    for number, ending in enumerate(('.webp', '.tiff', '.TIF', '.Webp', '.bmp', '.ppm')):
        path = source / f'class_{number % 2}' / f'more{number}{ending}'
        path.write_bytes(cv2.imencode(ending.lower(), image)[1].tobytes())
    latin = os.fsencode(source / 'class_0') + b'/caf\xe9.png'
    with open(latin, 'wb') as file:
        file.write(cv2.imencode('.png', image)[1].tobytes())
    for name in ('class_0/._0.JPEG', 'class_0/.ipynb_checkpoints/1.png', '__MACOSX/class_0/2.png',
                 'class_0/3.gif'):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(b'no image')
    (source / 'class_1' / 'loop').symlink_to(source)
    (source / 'class_1' / 'gone.png').symlink_to(source / 'gone.png')
    target = tmp_path / 'target'
    status, output = call(source, target, '--short-side', 32, '--processes', 1)
    assert status == 0
    assert f'19 images in {source}, 19 in {target}.' in output
    assert ("Passed over: 2 files of other types (1 .gif, 1 .txt) and 2 links to nothing, or to a "
            "folder around them ('class_1/gone.png', 'class_1/loop').") in output
    assert [len(find_images(str(root), 'test', 1)) for root in (source, target)] == [19, 19]


def test_changed_source(source, tmp_path, call):
    args = source, tmp_path / 'target', '--short-side', 32, '--processes', 1
    call(*args)
    image = cv2.imencode('.jpg', np.full((64, 64, 3), 200, np.uint8))[1].tobytes()
    (source / 'class_0' / '4.JPEG').write_bytes(image)
    os.utime(source / 'class_0' / '4.JPEG', (1000, 1000))  # from an archive
    (source / 'class_1' / '5.JPEG').unlink()
    status, output = call(*args)
    assert '11 images: 10 were there, 1 resized' in output
    assert cv2.imread(str(tmp_path / 'target' / 'class_0' / '4.JPEG')).mean() == 200
    assert status == 1 and "1 images of " in output and "'class_1/5.JPEG'. Delete them" in output


@pytest.mark.parametrize('args, message', [
    (['--short-side', 0], r'--short-side must be an int of at least 1 and at most \d+, but got 0'),
    (['--quality', 101], r'--quality must be a number in \[1, 100\], but got 101'),
    (['--processes', 0], r'--processes must be an int of at least 1 and at most \d+, but got 0'),
])
def test_bad_options(args, message, source, tmp_path, call):
    with pytest.raises(ValueError, match=message):
        call(source, tmp_path / 'target', *args)


def test_bad_folders(source, tmp_path, call):
    with pytest.raises(ValueError, match="source: there is no folder '.*none'"):
        call(tmp_path / 'none', tmp_path / 'target')
    for target in (source, source / 'copy', source.parent):
        with pytest.raises(ValueError, match='must not lie in each other'):
            call(source, target)
    with pytest.raises(ValueError, match=r'target: nothing can be written into .*\(File exists\)'):
        call(source, __file__)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ValueError, match='has no images'):
        call(tmp_path / 'empty', tmp_path / 'target')
    assert not (tmp_path / 'target').exists()


def test_other_settings(source, tmp_path, call):
    target = tmp_path / 'target'
    call(source, target, '--short-side', 32, '--processes', 1)
    with pytest.raises(ValueError, match=r"was made with {'short_side': 32, .* not with .* 48"):
        call(source, target, '--short-side', 48)
    (target / 'prepared.json').unlink()
    with pytest.raises(ValueError, match='is in .* already, but no prepared.json'):
        call(source, target, '--short-side', 32)


def descendants(process):
    found = []
    for path in Path('/proc').glob('[0-9]*/stat'):
        try:
            if int(path.read_text().rpartition(')')[2].split()[1]) == process.pid:
                found.append(int(path.parent.name))
        except (OSError, ValueError):
            continue  # ended meanwhile
    return found


def alive(pid):
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != 'linux', reason='looks into /proc')
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stops_and_goes_on(number, tmp_path, call):
    source, target = tmp_path / 'source', tmp_path / 'target'
    source.mkdir()
    image = np.random.RandomState(0).randint(0, 256, (900, 900, 3), dtype=np.uint8)
    image = cv2.imencode('.jpg', image)[1].tobytes()
    (source / '0.JPEG').write_bytes(image)
    # Many, for it must not be done before a busy machine lets this process stop it.
    for index in range(1, NUM_LINKS):
        os.link(source / '0.JPEG', source / f'{index}.JPEG')
    args = list(map(str, [source, target, '--short-side', 32, '--processes', 2]))
    process = Forked([TOOL, *args], output=tmp_path / 'log', new_session=True)
    try:
        while not list(target.glob('*.JPEG')):
            assert process.poll() is None, (tmp_path / 'log').read_text()
            time.sleep(0.01)
        workers = descendants(process)
        assert len(workers) == 2
        if number == signal.SIGINT:  # as a terminal does
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        status = process.wait(timeout=60)
        assert 'Traceback' not in (tmp_path / 'log').read_text()
        assert status == (-number if number == signal.SIGKILL else 128 + number)
        end = time.monotonic() + 20
        while any(map(alive, workers)):
            assert time.monotonic() < end, 'processes are left over'
            time.sleep(0.01)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    there = len(list(target.glob('*.JPEG')))
    assert 0 < there < NUM_LINKS
    for path in source.glob('*.JPEG'):  # the rest faster
        if not (target / path.name).exists() and path.name != '0.JPEG':
            path.unlink()
    (target / '0.JPEG').unlink(missing_ok=True)
    status, output = call(*args)
    assert status == 0 and ' 1 resized' in output
    assert {len(data) for name, data in content(target).items() if name.endswith('.JPEG')} == {
        (target / '0.JPEG').stat().st_size}
    assert not list(target.glob('*.tmp'))
