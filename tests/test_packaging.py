# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What is built and installed has configs and tools, and works in any folder."""
import json
import os
import shutil
import subprocess
import sys
import tarfile
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
import mmengine.hub, mmpretrain, runpy, sys
cfg = Config.fromfile('mine.py')
by_hub = mmengine.hub.get_config('autoprog_mm::autoprog/deit-micro_mnist5k.py')
found = dict(
    package=autoprog_mm.__file__,
    config=autoprog_mm.get_config('autoprog/deit-micro_mnist5k.py').custom_hooks[0].num_stages,
    base=[cfg.custom_hooks[0].num_stages, cfg.train_cfg.max_epochs],
    early=early.custom_hooks[0].num_stages,
    hub=by_hub.custom_hooks[0].num_stages,
    model=type(mmpretrain.get_model('deit-micro_mnist5k').backbone).__name__)
with open('found.json', 'w') as file:
    json.dump(found, file)
sys.argv = ['train.py', 'mine.py', '--no-validate', '--cfg-options',
            'train_dataloader.num_workers=0']
runpy.run_path(autoprog_mm.__path__[0] + '/.mim/tools/train.py', run_name='__main__')
'''


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
def source(tmp_path_factory):
    """The unpacked source distribution."""
    work = tmp_path_factory.mktemp('source')
    tree = copy_tree(work / 'tree')
    extension = tree / 'autoprog_mm' / '.mim'  # of an editable installation
    extension.mkdir()
    (extension / 'configs').symlink_to('../../configs')
    run_python('-c', "import setuptools.build_meta as b; b.build_sdist('dist')", cwd=tree)
    packed, = (tree / 'dist').iterdir()
    with tarfile.open(packed) as file:
        file.extractall(work, filter='data')
    unpacked, = work.glob('autoprog_mm-*')
    return unpacked


@pytest.fixture(scope='module')
def site(source, tmp_path_factory):
    """The unpacked wheel, which was built from the source distribution."""
    work = tmp_path_factory.mktemp('wheel')
    (source / LEFT_OVER).parent.mkdir(parents=True)
    (source / LEFT_OVER).touch()
    run_python('-m', 'pip', 'wheel', '--quiet', '--no-index', '--no-deps', '--no-build-isolation',
               '--wheel-dir', work, source, cwd=work)
    packed, = work.glob('*.whl')
    with ZipFile(packed) as file:
        file.extractall(work / 'site')
    return work / 'site'


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
        model='ElasticDeiT')
    # The tool in there has trained, with parts of ours and of mmpretrain's.
    assert 'Saving checkpoint at 1 epochs' in output and 'search registry' not in output
    assert json.loads((tmp_path / 'work_dirs/mine/autoprog.json').read_text())['finished']


def test_editable_installation_links(tmp_path):
    tree = copy_tree(tmp_path / 'tree')
    (tree / 'autoprog_mm' / '.mim').mkdir()  # of an earlier one
    (tree / 'autoprog_mm' / '.mim' / 'old').touch()
    before = files_of(tree)
    run_python('-c', "import setuptools.build_meta as b; b.build_editable('dist')", cwd=tree)
    extension = tree / 'autoprog_mm' / '.mim'
    assert {path.name: os.readlink(path) for path in extension.iterdir()} == {
        'configs': '../../configs', 'tools': '../../tools',
        'model-index.yml': '../../model-index.yml'}
    new = {name.split('/')[0] for name in files_of(tree) - before}
    assert new <= {'autoprog_mm', 'autoprog_mm.egg-info', 'dist'}
    ignored = (ROOT / '.gitignore').read_text().splitlines()
    assert {'/autoprog_mm/.mim/', '*.egg-info/', '/dist/'} <= set(ignored)
