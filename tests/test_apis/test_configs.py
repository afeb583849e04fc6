# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Our configs and models by name, in a checkout. An installed package: test_packaging.py."""
from pathlib import Path

import mmpretrain
import pytest
import torch
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.utils import get_installed_path, is_installed
from mmpretrain.apis import ModelHub
from mmpretrain.registry import MODELS
from modelindex.load_model_index import load

import autoprog_mm

ROOT = Path(__file__).parents[2]
# Without those for a user's own images, whose network follows these: it is no
# model that has a size.
CONFIGS = {
    path.stem: path for path in ROOT.joinpath('configs').rglob('*.py')
    if not {'_base_', 'experiments'} & set(path.parts) and not path.stem.endswith('_custom')}
FOLDERS = ('autoprog', 'budget', 'prog', 'baseline')
# Parameters (of DeiT those in mmpretrain's metafile) and multiply-adds by what
# names begin with; all configs of a family have the same network.
SIZES = {
    'deit-t': (5717416, 1253491200),
    'deit-s': (22050664, 4598498304),
    'deit-b': (86567656, 17563060224),
    'deit-micro': (308042, 22610688),
    'volo-d1': (26632040, 6843093504),
    'volo-d2': (58678336, 14204551168),
    'volo-micro': (646136, 27055104),
}


def test_get_config_reads_it_with_its_bases():
    cfg = autoprog_mm.get_config('autoprog/deit-s_0.4_in1k.py')
    assert isinstance(cfg, Config)
    assert cfg.custom_hooks[0].initial_scale == dict(depth=0.4, resolution=0.4)
    assert cfg.model.backbone.arch == 'deit-small' and cfg.default_scope == 'mmpretrain'
    assert Path(autoprog_mm.config_path('autoprog/deit-s_in1k.py')).samefile(
        CONFIGS['deit-s_in1k'])


@pytest.mark.parametrize('name', ['deit-s_in1k.py', 'autoprog/deit-s_in1k', '../setup.py'])
def test_unknown_config_gets_a_sentence(name):
    with pytest.raises(ValueError, match=f'autoprog_mm has no config {name!r}. Did you mean one '
                       'of: .*autoprog/deit-s_in1k.py'):
        autoprog_mm.get_config(name)


def test_mmengine_finds_the_package_that_is_imported():
    # Not where a distribution of its name says, which may be another version's,
    # or that of an editable installation, whose folder has no package.
    package = MODULE2PACKAGE['autoprog_mm']
    assert is_installed(package)
    assert Path(get_installed_path(package)).samefile(ROOT / 'autoprog_mm')


def test_package_without_configs_gets_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr('autoprog_mm.utils.config_files.PACKAGE', tmp_path / 'autoprog_mm')
    with pytest.raises(ValueError, match='Install it with pip, or use a whole checkout'):
        autoprog_mm.get_config('autoprog/deit-s_in1k.py')


def test_model_index_passes_the_check_of_its_package():
    # What mmpretrain does not keep to, either: READMEs are named from the root.
    errors = [error for error in load(str(ROOT / 'model-index.yml')).check(silent=True)
              if 'Path to README file README.md' not in error]
    assert errors == []


@pytest.mark.parametrize('folder', FOLDERS)
def test_metafile_has_what_mmpretrain_asks_for(folder):
    """The rules of mmpretrain's `.dev_scripts/check_metafile.py`, and no made-up results."""
    index = load(str(ROOT / 'configs' / folder / 'metafile.yml'))
    index.build_models_with_collections()
    collection, = index.collections
    assert collection.name and (ROOT / collection.readme).is_file()
    assert collection.paper['Title'] and collection.paper['URL']
    names = {path.stem for path in CONFIGS.values() if path.parent.name == folder}
    assert {model.name for model in index.models} == names and len(index.models) == len(names)
    for model in index.models:
        assert model.in_collection == collection.name
        assert model.config == f'configs/{folder}/{model.name}.py'
        assert model.weights is None and model.results is None
        family = model.name.split('_')[0]
        assert (model.metadata.parameters, model.metadata.flops) == SIZES[family], model.name


@pytest.mark.parametrize('family', SIZES)
def test_sizes_are_those_of_the_models(family):
    name = min(name for name in CONFIGS if name.startswith(f'{family}_'))
    with torch.device('meta'):
        model = MODELS.build(Config.fromfile(CONFIGS[name]).model)
    flops = model.backbone.flops(model.backbone.full_subnet)
    assert (sum(p.numel() for p in model.parameters()), flops) == SIZES[family]


def test_index_has_all_metafiles():
    assert {f'configs/{folder}/metafile.yml' for folder in FOLDERS} == {
        path.relative_to(ROOT).as_posix() for path in ROOT.joinpath('configs').rglob('*.yml')}
    assert ModelHub.has('volo-d1_tokenlabel_in1k') and all(map(ModelHub.has, CONFIGS))


@pytest.mark.parametrize('name, kind, depth', [('deit-t_in1k', 'ElasticDeiT', 12),
                                               ('volo-micro_mnist5k', 'ElasticVOLO', 6)])
def test_mmpretrain_builds_models_by_name(name, kind, depth):
    model = mmpretrain.get_model(name, pretrained=False)
    assert type(model.backbone).__name__ == kind
    assert model.backbone.full_subnet.depth == depth
    assert type(model.data_preprocessor).__name__ == 'ElasticDataPreprocessor'
    # Options of the model, as for mmpretrain's own names.
    smaller = mmpretrain.get_model(name, head=dict(num_classes=7))
    assert smaller.head.num_classes == 7
