# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What is built and installed has configs and tools, and works in any folder."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]
FILES = ('autoprog_mm', 'configs', 'tools', 'setup.py', 'pyproject.toml', 'MANIFEST.in',
         'model-index.yml', 'README.md', 'LICENSE')
# Of an earlier build, for files that have been deleted since.
LEFT_OVER = 'build/lib/autoprog_mm/deleted.py'
# Of the two configs, the second is for programs that do not import our package.
SCRIPT = '''
import json
from mmengine.config import Config
early = Config.fromfile('early.py')
import autoprog_mm
import mmengine.hub, mmpretrain, runpy, sys, torch
from torchvision.transforms import functional  # also where its binary does not load
cfg = Config.fromfile('mine.py')
by_hub = mmengine.hub.get_config('autoprog_mm::autoprog/deit-micro_mnist5k.py')
found = dict(
    package=autoprog_mm.__file__,
    config=autoprog_mm.get_config('autoprog/deit-micro_mnist5k.py').custom_hooks[0].num_stages,
    base=[cfg.custom_hooks[0].num_stages, cfg.train_cfg.max_epochs],
    early=early.custom_hooks[0].num_stages,
    hub=by_hub.custom_hooks[0].num_stages,
    model=type(mmpretrain.get_model('deit-micro_mnist5k').backbone).__name__,
    flipped=functional.hflip(torch.arange(3.).view(1, 1, 3)).flatten().tolist())
with open('found.json', 'w') as file:
    json.dump(found, file)
sys.argv = ['train.py', 'mine.py', '--no-validate', '--cfg-options',
            'train_dataloader.num_workers=0']
runpy.run_path(autoprog_mm.__path__[0] + '/.mim/tools/train.py', run_name='__main__')
'''


# What an installer calls, one after the other, in the folder of each source.
BUILD = '''
import os, sys, tarfile
import setuptools.build_meta
from pathlib import Path
tree, work, editable = map(Path, sys.argv[1:])
os.chdir(tree)
packed = tree / 'dist' / setuptools.build_meta.build_sdist('dist')
with tarfile.open(packed) as file:
    file.extractall(work, filter='data')
os.chdir(next(work.glob('autoprog_mm-*')))
left_over = Path('LEFT_OVER')
left_over.parent.mkdir(parents=True)
left_over.touch()
setuptools.build_meta.build_wheel(work)
os.chdir(editable)
setuptools.build_meta.build_editable('dist')
'''.replace('LEFT_OVER', LEFT_OVER)


def run_python(*args, cwd, path=''):
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', *map(str, args)],
        cwd=cwd,
        env={**os.environ, 'PYTHONPATH': str(path), 'OMP_NUM_THREADS': '1'},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


def copy_tree(folder):
    """What is needed of the repository, with traces of other installations."""
    folder.mkdir()
    for name in FILES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, symlinks=True,
                            ignore=shutil.ignore_patterns('__pycache__', '.mim'))
        else:
            shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    """A folder with the unpacked source distribution and the wheel that was built from it.

    Beside them is the tree of an editable installation, in a folder of the package's name.
    """
    work = tmp_path_factory.mktemp('built')
    (work / 'clones').mkdir()
    tree, editable = copy_tree(work / 'tree'), copy_tree(work / 'clones' / 'autoprog_mm')
    extension = tree / 'autoprog_mm' / '.mim'  # of an editable installation
    extension.mkdir()
    (extension / 'configs').symlink_to('../../configs')
    (editable / 'autoprog_mm' / '.mim').mkdir()  # of an earlier one
    (editable / 'autoprog_mm' / '.mim' / 'old').touch()
    run_python('-c', BUILD, tree, work, editable, cwd=work)
    return work


@pytest.fixture(scope='module')
def source(built):
    """The unpacked source distribution, from which the wheel was built."""
    unpacked, = built.glob('autoprog_mm-*/')
    return unpacked


@pytest.fixture(scope='module')
def site(built):
    """The unpacked wheel."""
    packed, = built.glob('*.whl')
    with ZipFile(packed) as file:
        file.extractall(built / 'site')
    return built / 'site'


def files_of(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob('*')
            if path.is_file() and '__pycache__' not in path.parts}


def test_source_distribution_is_whole(source):
    for name in ('configs', 'tools'):
        assert files_of(source / name) == files_of(ROOT / name)
    assert (source / 'model-index.yml').is_file()
    assert not (source / 'autoprog_mm' / '.mim').exists()


def test_wheel_has_configs_and_tools(site):
    extension = site / 'autoprog_mm' / '.mim'
    assert sorted(path.name for path in extension.iterdir()) == [
        'configs', 'model-index.yml', 'tools']
    for name in ('configs', 'tools'):
        assert files_of(extension / name) == files_of(ROOT / name)
    assert files_of(site / 'autoprog_mm') >= files_of(ROOT / 'autoprog_mm') - {
        name for name in files_of(ROOT / 'autoprog_mm') if name.startswith('.mim/')}
    # Nothing else comes along, such as a `tools` of everybody's.
    assert sorted(path.name.split('-')[0] for path in site.iterdir()) == ['autoprog_mm'] * 2
    assert not (site / 'autoprog_mm' / 'deleted.py').exists()


def test_build_leaves_nothing_behind(source, site):
    assert files_of(source / 'build') == {'lib/autoprog_mm/deleted.py'}
    assert not (source / 'autoprog_mm' / '.mim').exists()


def test_works_from_another_folder(site, tmp_path):
    (tmp_path / 'mine.py').write_text('''
_base_ = 'autoprog_mm::autoprog/deit-micro_mnist5k.py'
train_cfg = dict(max_epochs=1)
train_dataloader = dict(dataset=dict(indices=64))
custom_hooks = _base_.custom_hooks
custom_hooks[0].num_stages = 1
''')
    (tmp_path / 'early.py').write_text(
        "_base_ = __import__('autoprog_mm').config_path('autoprog/deit-micro_mnist5k.py')\n")
    (tmp_path / 'script.py').write_text(SCRIPT)
    output = run_python('script.py', cwd=tmp_path, path=site)
    found = json.loads((tmp_path / 'found.json').read_text())
    assert found == dict(
        package=str(site / 'autoprog_mm' / '__init__.py'), config=3, base=[1, 1], early=3, hub=3,
        model='ElasticDeiT', flipped=[2., 1., 0.])
    # The tool in there has trained, with parts of ours and of mmpretrain's.
    assert 'Saving checkpoint at 1 epochs' in output and 'search registry' not in output
    assert json.loads((tmp_path / 'work_dirs/mine/autoprog.json').read_text())['finished']


def test_editable_installation_links(built):
    tree = built / 'clones' / 'autoprog_mm'
    extension = tree / 'autoprog_mm' / '.mim'
    assert {path.name: os.readlink(path) for path in extension.iterdir()} == {
        'configs': '../../configs', 'tools': '../../tools',
        'model-index.yml': '../../model-index.yml'}
    new = {name.split('/')[0] for name in files_of(tree) if not (ROOT / name).exists()}
    assert new <= {'autoprog_mm.egg-info', 'dist'}
    ignored = (ROOT / '.gitignore').read_text().splitlines()
    assert {'/autoprog_mm/.mim/', '*.egg-info/', '/dist/'} <= set(ignored)


# Where a script beside the clone finds the package: not in the clone's folder, which Python
# takes for a namespace package of that name where nothing better is found.
FIND = '''
import importlib.util, site, sys
installed, others = sys.argv[1], sys.argv[2:]
sys.path[:] = [path for path in sys.path if path not in others]
sys.meta_path[:] = [finder for finder in sys.meta_path
                    if 'editable' not in getattr(finder, '__module__', '')]
assert importlib.util.find_spec('autoprog_mm').origin is None  # the namespace package
site.addsitedir(installed)
print(importlib.util.find_spec('autoprog_mm').origin)
'''


def test_editable_installation_wins_over_its_folder(built, tmp_path):
    tree = built / 'clones' / 'autoprog_mm'
    packed, = (tree / 'dist').glob('*.whl')
    with ZipFile(packed) as file:
        file.extractall(tmp_path)
    script = tree.parent / 'script.py'
    script.write_text(FIND)
    found = run_python(script, tmp_path, ROOT, cwd=tree.parent).strip()
    assert Path(found) == tree / 'autoprog_mm' / '__init__.py'
