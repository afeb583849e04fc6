# Copyright (c) the autoprog_mm authors. All rights reserved.
"""tools/token_label/generate.py; what stops it half way, in processes of its own."""
import autoprog_mm  # noqa: F401  isort: skip  (before anything that imports torchvision)

import argparse
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS

from autoprog_mm.datasets.class_images import find_images
from autoprog_mm.datasets.transforms.token_label import load_token_label
from autoprog_mm.token_label.teachers import build_teacher
from autoprog_mm.utils.files import write_atomically
from tests.forked import Forked, run_script
from tests.test_tools import load_tool

ROOT = Path(__file__).parents[2]
TOOL = ROOT / 'tools' / 'token_label' / 'generate.py'
NUM_IMAGES = 48  # of jpeg_root / 'train', 12 of each of 4 classes
BATCH = 4
SECONDS = 0.6  # that a batch takes, if it is to be interrupted

# A backbone that can be slow, as a file of the user's.
BACKBONE = '''
import os
import time
import torch.nn as nn
from mmpretrain.registry import MODELS

@MODELS.register_module(force=True)
class Patches(nn.Module):

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 8, 8)

    def forward(self, x):
        time.sleep(float(os.environ.get('BATCH_SECONDS', 0)))
        return (self.conv(x), )
'''


def write_teacher(folder, name='teacher', num_classes=4, scale=1.):
    """A config with a grid of 4 x 4, and its checkpoint."""
    cfg = Config(
        dict(
            custom_imports=dict(imports=['patches_of_this_test']),
            model=dict(
                type='ImageClassifier',
                data_preprocessor=dict(mean=[110.] * 3, std=[60.] * 3, to_rgb=True),
                backbone=dict(type='Patches', channels=8),
                neck=dict(type='GlobalAveragePooling'),
                head=dict(type='LinearClsHead', num_classes=num_classes, in_channels=8)),
            test_dataloader=dict(
                dataset=dict(
                    type='CustomDataset',
                    pipeline=[dict(type='LoadImageFromFile'),
                              dict(type='Resize', scale=(32, 32))]))))
    config, weights = folder / f'{name}.py', folder / f'{name}.pth'
    cfg.dump(config)
    model = MODELS.build(cfg.model)
    torch.manual_seed(3)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1 * scale)
    torch.save(dict(state_dict=model.state_dict()), weights)
    return ['--teacher', str(config), '--checkpoint', str(weights)]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('teachers')
    (folder / 'patches_of_this_test.py').write_text(BACKBONE)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture(scope='module')
def teacher(folder):
    """Of the command line."""
    __import__('patches_of_this_test')
    return [*write_teacher(folder), '--batch-size', BATCH, '--topk', 3, '--workers', 1]


@pytest.fixture(scope='module')
def tool():
    return load_tool(TOOL)


@pytest.fixture
def call(tool, monkeypatch, capsys):
    """Run the tool in this process."""

    def call(*args):
        monkeypatch.setattr(sys, 'argv', ['generate.py', *map(str, args)])
        status = tool.main()
        return status, capsys.readouterr().out

    return call


@pytest.fixture
def start(folder, tmp_path):
    """Start the tool in a process group of its own, its output into a file."""
    groups = []

    def start(*args, seconds=0.):
        (tmp_path / 'log').unlink(missing_ok=True)
        process = Forked(
            [TOOL, *args], output=tmp_path / 'log', new_session=True,
            env={'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(folder),
                 'BATCH_SECONDS': str(seconds)})
        groups.append(process.pid)
        return process

    yield start
    for group in groups:
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            continue


def finish(process, tmp_path):
    status = process.wait(timeout=300)
    return status, (tmp_path / 'log').read_text()


@pytest.fixture(scope='module')
def whole(jpeg_root, folder, teacher):
    """The maps of a run that nothing stopped, and what it said."""
    out = folder / 'whole'
    done = run_script(TOOL, jpeg_root / 'train', out, *teacher)
    assert done.returncode == 0, done.stdout
    return out, done.stdout


def content(out):
    return {str(path.relative_to(out)): path.read_bytes()
            for path in sorted(out.rglob('*')) if path.is_file()}


def maps(out):
    return sorted(out.rglob('*.pt'))


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None, 'it ended before it was interrupted'
        time.sleep(0.005)


def workers_of(process):
    """Processes that the tool has started, without Python's own helpers."""
    found = []
    for path in Path('/proc').glob('[0-9]*/stat'):
        try:
            parent = int(path.read_text().rpartition(')')[2].split()[1])
            command = (path.parent / 'cmdline').read_text()
        except (OSError, ValueError):
            continue  # ended meanwhile
        if parent == process.pid and 'spawn_main' in command:
            found.append(int(path.parent.name))
    return found


# ----------------------------------------------------------------------- maps


@torch.inference_mode()
def test_maps_hold_the_best_classes_of_each_cell(jpeg_root, teacher, whole):
    out, output = whole
    model = build_teacher(teacher[1], teacher[3])
    assert len(maps(out)) == NUM_IMAGES and set(content(out)) == {'token_labels.json'} | {
        f'class_{c}/{i}.pt' for c in range(4) for i in range(12)}
    agreed = 0
    for image in sorted((jpeg_root / 'train').rglob('*.jpg')):
        path = out / image.parent.name / f'{image.stem}.pt'
        label = load_token_label(str(path), 4)
        assert label.shape == (2, 3, 4, 4) and label.dtype == torch.float16
        pixels = cv2.resize(cv2.imread(str(image)), (32, 32))  # all of it, without a crop
        x = torch.from_numpy((pixels[..., ::-1].copy() - 110.) / 60).permute(2, 0, 1).float()
        scores = model.cells.head.fc(model.cells.backbone(x[None])[0].permute(0, 2, 3, 1))[0]
        for row in range(4):
            for column in range(4):
                order = scores[row, column].argsort(descending=True)[:3]
                assert label[1, :, row, column].tolist() == order.tolist()
                torch.testing.assert_close(
                    label[0, :, row, column].float(), scores[row, column, order],
                    rtol=1e-3, atol=1e-4)
        agreed += scores.mean(dim=(0, 1)).argmax() == int(image.parent.name[-1])
        assert path.stat().st_size == maps(out)[0].stat().st_size
    assert 0 < agreed < NUM_IMAGES
    assert f'is that of the folder for {agreed} of 48 images' in output
    assert (f'48 label maps of {path.stat().st_size} bytes each in {out}: 0 were there, '
            '48 were made in') in output and 'images/s' in output
    assert f"dict(type='LoadTokenLabel', label_root='{out}', num_classes=4)" in output
    settings = json.loads((out / 'token_labels.json').read_text())
    assert {key: settings[key] for key in ('teacher', 'checkpoint', 'num_classes', 'img_size',
                                           'grid', 'topk')} == dict(
        teacher='teacher.py', checkpoint='teacher.pth', num_classes=4, img_size=32, grid=[4, 4],
        topk=3)


def test_many_classes_need_exact_numbers(jpeg_root, folder, teacher, call, tmp_path):
    many = write_teacher(folder, 'many', num_classes=3000)
    status, output = call(jpeg_root / 'val', tmp_path / 'out', *many, '--num-classes', 3000,
                          '--workers', 0)
    assert status == 0 and 'is that of the folder' not in output
    label = load_token_label(str(maps(tmp_path / 'out')[0]), 3000)
    assert label.dtype == torch.float32 and label.shape == (2, 5, 4, 4)
    numbers = {int(n) for path in maps(tmp_path / 'out')
               for n in load_token_label(str(path), 3000)[1].flatten()}
    assert any(n > 2048 and n % 2 for n in numbers)


def test_images_of_any_depth_and_kind(jpeg_root, teacher, call, tmp_path):
    root, out = tmp_path / 'root', tmp_path / 'out'
    source = jpeg_root / 'train'
    for path in ('a/deep/1.x.JPG', 'b/2.jpeg', '3.jpg', 'b/notes.txt', 'b/.hidden.jpg'):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / 'class_1' / '0.jpg', root / path)
    cv2.imwrite(str(root / 'b' / '4.png'), np.zeros((9, 9), np.uint8))  # grey
    status, output = call(root, out, *teacher, '--num-classes', 4)
    assert status == 0
    assert [str(path.relative_to(out)) for path in maps(out)] == [
        '3.pt', 'a/deep/1.x.pt', 'b/2.pt', 'b/4.pt']
    assert f"num_classes=4, image_root='{root}')" in output


# --------------------------------------------------------------- interruption


def test_a_stopped_run_goes_on_where_it_was(jpeg_root, teacher, whole, start, call, tmp_path):
    """Ctrl-C, then a kill, then a run to the end: the maps are those of one run."""
    out, args = tmp_path / 'out', [jpeg_root / 'train', tmp_path / 'out', *teacher]
    expected = content(whole[0])
    for how, least in ((signal.SIGINT, 8), (signal.SIGKILL, 24)):
        process = start(*args, seconds=SECONDS)
        wait_for(lambda least=least: len(maps(out)) >= least, process)
        os.killpg(process.pid, how)
        status, output = finish(process, tmp_path)
        assert status != 0
        made = content(out)
        assert least + 1 <= len(made) < NUM_IMAGES, output
        whole_files = {path: made[path] for path in made if not path.endswith('.tmp')}
        assert whole_files.items() <= expected.items()
        if how == signal.SIGINT:
            assert 'stopped by Ctrl-C' in output and whole_files == made
    half = out / 'class_3' / f'9.pt.{2**22 + 1}.tmp'
    half.parent.mkdir(exist_ok=True)
    half.write_bytes(b'half')
    before = {path: path.stat().st_mtime_ns for path in maps(out)}

    status, output = call(*args)
    assert status == 0, output
    assert f'{len(before)} were there, {NUM_IMAGES - len(before)} were made' in output
    assert content(out) == expected
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())


def test_processes_share_the_work_and_do_not_hang(jpeg_root, teacher, whole, start, tmp_path):
    """One is killed; then both go on, past an image that can't be read."""
    root, out = tmp_path / 'root', tmp_path / 'out'
    shutil.copytree(jpeg_root / 'train', root)
    (root / 'class_0' / '3.jpg').write_bytes(b'')
    (root / 'class_3' / '9.jpg').write_text('no image')
    args = root, out, *teacher, '--processes', 2
    process = start(*args, seconds=SECONDS)
    wait_for(lambda: maps(out), process)
    workers = workers_of(process)
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    status, output = finish(process, tmp_path)
    assert status == 1 and 'of 2 died with exit code -9' in output.strip().splitlines()[-1]
    count = len(maps(out))
    assert 0 < count < NUM_IMAGES - 2
    assert not any(Path(f'/proc/{worker}').exists() for worker in workers)

    status, output = finish(start(*args), tmp_path)
    assert status == 1
    assert f'{count} were there, {46 - count} were made' in output
    assert f'of {46 - count} images' in output and f'] {48 - count}/{48 - count}, ' in output
    assert 'No label map was made of 2 images:' in output
    assert [line.split(':')[0] for line in output.strip().splitlines()[-2:]] == [
        '  class_0/3.jpg', '  class_3/9.jpg']
    expected = content(whole[0])
    assert content(out) == {name: expected[name] for name in expected
                            if name not in ('class_0/3.pt', 'class_3/9.pt')}


def test_emptied_and_truncated_maps_are_made_again(jpeg_root, teacher, whole, call, tmp_path):
    out = tmp_path / 'out'
    shutil.copytree(whole[0], out)
    expected, paths = content(out), maps(out)
    paths[0].write_bytes(b'')
    paths[1].write_bytes(paths[1].read_bytes()[:-1])
    paths[20].unlink()
    paths[47].write_bytes(paths[47].read_bytes() + b'0')
    status, output = call(jpeg_root / 'train', out, *teacher)
    assert status == 0 and '44 were there, 4 were made' in output
    assert content(out) == expected
    status, output = call(jpeg_root / 'train', out, *teacher)
    assert status == 0 and '48 were there, 0 were made' in output and 'elapsed' not in output


def test_an_image_has_the_same_slot_in_every_run(tool, tmp_path):
    """Of batches of one size, whatever is there already: so no bit of a map depends on it."""
    images = [f'{folder}/{i}.jpg' for folder in 'ab' for i in range(5)]
    (tmp_path / 'b').mkdir()
    (tmp_path / 'a').mkdir()
    for image in images:
        (tmp_path / image).touch()
    for i in (0, 2, 3, 4):
        (tmp_path / 'a' / f'{i}.pt').write_bytes(b'1234')
    args = argparse.Namespace(image_root=str(tmp_path), out=str(tmp_path), batch_size=4)
    batches, number = tool.split(args, images, ['a', 'b'], size=4)
    assert number == 6
    assert batches == [
        [(1, 'a/1.jpg', 0)],
        [(1, 'b/0.jpg', 1), (2, 'b/1.jpg', 1), (3, 'b/2.jpg', 1)],
        [(0, 'b/3.jpg', 1), (1, 'b/4.jpg', 1)],
    ]


def test_same_images_as_training(teacher, jpeg_root, tmp_path, call):
    root, out = tmp_path / 'images', tmp_path / 'maps'
    shutil.copytree(jpeg_root / 'val', root)  # 16
    image = cv2.imread(str(root / 'class_0' / '0.jpg'))
    for name in ('a.webp', 'b.tiff', 'c.TIF', 'd.Webp', 'caf\udce9.png'):
        content = cv2.imencode(os.path.splitext(name)[1].lower(), image)[1].tobytes()
        (root / 'class_0' / name).write_bytes(content)
    for name in ('.ipynb_checkpoints/1.png', 'class_0/._0.jpg', '__MACOSX/2.png', 'class_0/3.gif'):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b'no image')
    (root / 'class_1' / 'loop').symlink_to(root)
    status, output = call(root, out, *teacher)
    assert status == 0 and len(list(out.rglob('*.pt'))) == 21
    assert len(find_images(str(root), 'test', 1)) == 21
    assert f"21 images in {root}. Passed over: 1 files of other types (1 .gif) and 1 links to " \
           f"nothing, or to a folder around them ('class_1/loop')." in output

    # A map that is older than its image is made anew.
    before = (out / 'class_0' / 'a.pt').read_bytes()
    (root / 'class_0' / 'a.webp').write_bytes(cv2.imencode('.webp', 255 - image)[1].tobytes())
    os.utime(root / 'class_0' / 'a.webp', (time.time() + 10, time.time() + 10))
    assert '20 were there, 1 were made' in call(root, out, *teacher)[1]
    assert (out / 'class_0' / 'a.pt').read_bytes() != before


def test_an_interrupted_write_leaves_no_trace(monkeypatch, tmp_path):
    path = tmp_path / 'a.pt'
    path.write_bytes(b'old')

    def replace(beside, to):
        assert Path(beside).read_bytes() == b'new' and Path(beside).parent == tmp_path
        assert path.read_bytes() == b'old' and to == str(path)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, 'replace', replace)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(str(path), b'new', durable=False)
    assert path.read_bytes() == b'old' and os.listdir(tmp_path) == ['a.pt']


# --------------------------------------------------------------------- errors


def test_unreadable_images_do_not_stop_the_others(jpeg_root, teacher, whole, call, tmp_path):
    root, out = tmp_path / 'root', tmp_path / 'out'
    shutil.copytree(jpeg_root / 'train', root)
    (root / 'class_0' / '3.jpg').write_bytes(b'')
    (root / 'class_2' / '5.jpg').write_text('no image')
    status, output = call(root, out, *teacher)
    assert status == 1
    assert '0 were there, 46 were made' in output and 'of 46 images' in output
    assert 'No label map was made of 2 images:' in output
    assert [line.split(':')[0] for line in output.strip().splitlines()[-2:]] == [
        '  class_0/3.jpg', '  class_2/5.jpg']
    # Mended images get theirs, the same as if they had always been there.
    shutil.rmtree(root)
    shutil.copytree(jpeg_root / 'train', root)
    status, output = call(root, out, *teacher)
    assert status == 0 and '46 were there, 2 were made' in output
    assert content(out) == content(whole[0])


def test_scores_that_are_not_finite_are_not_written(jpeg_root, folder, teacher, call, tmp_path):
    wild = write_teacher(folder, 'wild', scale=1e4)
    status, output = call(
        jpeg_root / 'val', tmp_path / 'out', *wild, '--topk', 3, '--workers', 0)
    assert status == 1 and not maps(tmp_path / 'out')
    assert 'No label map was made of 16 images' in output
    assert 'class_0/0.jpg: the teacher gives scores that are not finite in torch.float16' in output


def test_amp_needs_cuda(jpeg_root, teacher, call, monkeypatch, tmp_path, whole):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    status, output = call(jpeg_root / 'train', tmp_path / 'out', *teacher, '--amp')
    assert status == 0 and '--amp: there is no CUDA device' in output
    assert content(tmp_path / 'out') == content(whole[0])


def test_cells_beside_the_grid_get_a_warning(jpeg_root, teacher, call, tmp_path):
    status, output = call(jpeg_root / 'val', tmp_path / 'out', *teacher, '--img-size', 35)
    assert status == 0 and '35 pixels are no multiple of the grid (4, 4)' in output


@pytest.mark.parametrize('options, message', [
    (['--topk', 0], '--topk must be an int of at least 1 or None, but got 0'),
    (['--topk', 5], '--topk must be at most 4, the number of classes of the teacher, but got 5'),
    (['--batch-size', 0], '--batch-size must be an int of at least 1'),
    (['--processes', 0], '--processes must be an int of at least 1'),
    (['--workers', -1], '--workers must be an int of at least 0'),
    (['--img-size', 0], '--img-size must be an int of at least 1'),
    (['--num-classes', 0], '--num-classes must be an int of at least 1'),
    (['--num-classes', 9], r'has 4 classes, but 9 are expected \(--num-classes.*, 4\)'),
    (['--pretrained'], 'needs weights.*but got both'),
    (['--img-size', 8], 'no more than one cell'),
])
def test_bad_options_get_a_clear_error(jpeg_root, teacher, call, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        call(jpeg_root / 'train', tmp_path / 'out', *teacher, *options)
    assert not (tmp_path / 'out').exists()


def test_other_classes_get_a_clear_error(jpeg_root, teacher, call, tmp_path):
    """Before any work, and the last line of a run says it."""
    root = tmp_path / 'root'
    shutil.copytree(jpeg_root / 'train', root)
    (root / 'class_9').mkdir()
    with pytest.raises(ValueError, match='has 4 classes, but 5 are expected.*--num-classes 4'):
        call(root, tmp_path / 'out', *teacher)
    assert not (tmp_path / 'out').exists()
    status, output = call(root, tmp_path / 'out', *teacher, '--num-classes', 4)
    assert status == 0 and 'is that of the folder' not in output


def test_bad_folders_get_a_clear_error(jpeg_root, teacher, call, tmp_path):
    root = tmp_path / 'root'
    with pytest.raises(ValueError, match="image_root: there is no folder '.*root'"):
        call(root, tmp_path / 'out', *teacher)
    (root / 'a').mkdir(parents=True)
    (root / 'a' / 'b.txt').touch()
    with pytest.raises(ValueError, match=r"image_root: the folder '.*root' has no images .*\.jpg"):
        call(root, tmp_path / 'out', *teacher)
    for out in (root, root / 'a' / 'out'):
        with pytest.raises(ValueError, match='out .* must not lie in image_root'):
            call(root, out, *teacher)
    for name in ('b.jpg', 'b.JPEG'):
        (root / 'a' / name).touch()
    with pytest.raises(ValueError, match=r"'a/b.JPEG' and 'a/b.jpg' would have .* 'a/b.pt'"):
        call(root, tmp_path / 'out', *teacher)
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('options, message', [
    (['--topk', 2], 'label maps of other settings: topk was 3 and is 2. Give another out'),
    (['--img-size', 40], r'img_size was 32 and is 40; grid was \[4, 4\] and is \[5, 5\]'),
    ('weights', "checkpoint was 'teacher.pth' and is 'other.pth'; fingerprint was"),
    ('input', "input was .*110.0.* and is .*111.0"),
])
def test_maps_of_other_settings_are_refused(jpeg_root, folder, teacher, whole, call, tmp_path,
                                            options, message):
    out = tmp_path / 'out'
    shutil.copytree(whole[0], out)
    if options == 'weights':
        options = write_teacher(folder, 'other', scale=2.)
        options[1] = teacher[1]
    elif options == 'input':
        config = tmp_path / 'teacher.py'
        config.write_text(Path(teacher[1]).read_text().replace('110.0', '111.0'))
        options = ['--teacher', config]
    with pytest.raises(ValueError, match=message):
        call(jpeg_root / 'train', out, *teacher, *options)
    assert content(out) == content(whole[0])


def test_maps_of_unknown_settings_are_refused(jpeg_root, teacher, whole, call, tmp_path):
    out = tmp_path / 'out'
    shutil.copytree(whole[0], out)
    settings = out / 'token_labels.json'
    for text in ('{"teacher', '[1, 2]'):
        settings.write_text(text)
        with pytest.raises(ValueError, match='token_labels.json.* cannot be read'):
            call(jpeg_root / 'train', out, *teacher)
    settings.unlink()
    with pytest.raises(ValueError, match="'class_0/0.pt' is in .* but no token_labels.json"):
        call(jpeg_root / 'train', out, *teacher)
