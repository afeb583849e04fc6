# Copyright (c) the autoprog_mm authors. All rights reserved.
"""The rooms of the house: imports run down only, in no circle, and files stay small."""
import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Dict, List, Set

import pytest

ROOT = Path(__file__).parents[1]
# From the bottom up. The first three and the last two are files.
ROOMS = ('version', 'compat', 'registry', 'utils', 'growth', 'datasets', 'models', 'token_label',
         'record', 'planning', 'engine', 'export', 'report', 'launch', 'apis', 'stock', '__init__')
MOST_LINES = {'autoprog_mm/engine/hooks/autoprog_hook.py': 250}  # elsewhere 300


def read_imports(package: Path) -> Dict[str, Set[str]]:
    """What each module of a package imports of it, also inside of functions.

    Modules have names such as ``'growth.search'``, packages such as
    ``'growth.__init__'``.
    """
    modules = {}
    for path in package.rglob('*.py'):
        parts = path.relative_to(package).with_suffix('').parts
        if '.mim' not in parts:
            modules['.'.join(parts)] = path

    def found(parts: List[str]) -> str:
        """The longest begin of a dotted name that is a module."""
        for length in range(len(parts), -1, -1):
            for end in ([], ['__init__']):
                if (name := '.'.join([*parts[:length], *end])) in modules:
                    return name
        raise ModuleNotFoundError('.'.join(parts))

    imports = {}
    for name, path in modules.items():
        here = [package.name, *name.split('.')]
        imports[name] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Import):
                targets = [alias.name.split('.') for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = here[:len(here) - node.level] if node.level else []
                base = base + (node.module.split('.') if node.module else [])
                targets = [[*base, alias.name] for alias in node.names]
            else:
                continue
            imports[name] |= {found(parts[1:]) for parts in targets if parts[0] == package.name}
    return imports


def upward(imports: Dict[str, Set[str]]) -> List[str]:
    """Imports of a room above."""
    height = {room: i for i, room in enumerate(ROOMS)}
    return sorted(f'{name} imports {other}' for name, others in imports.items()
                  for other in others
                  if height[other.split('.')[0]] > height[name.split('.')[0]])


def too_long(root: Path) -> List[str]:
    """Files with more lines than they may have."""
    lines = {path.relative_to(root).as_posix(): len(path.read_text(encoding='utf-8').splitlines())
             for folder in ('autoprog_mm', 'tools') for path in (root / folder).rglob('*.py')
             if '.mim' not in path.parts}
    return sorted(f'{name}: {number} lines' for name, number in lines.items()
                  if number > MOST_LINES.get(name, 300))


@pytest.fixture(scope='module')
def imports():
    return read_imports(ROOT / 'autoprog_mm')


def test_rooms_are_these(imports):
    assert {name.split('.')[0] for name in imports} == set(ROOMS)


def test_imports_run_down(imports):
    assert upward(imports) == []


def test_no_circle(imports):
    """Also not between the modules of one room."""
    TopologicalSorter(imports).prepare()


def test_files_are_short():
    assert too_long(ROOT) == []


def test_tests_mirror_the_package():
    """A folder of tests has a room, and a file a module, or it says what it is about."""
    for path in (ROOT / 'tests').rglob('test_*.py'):
        *rooms, name = (part.removeprefix('test_')
                        for part in path.relative_to(ROOT / 'tests').parts)
        room = ROOT.joinpath(*rooms if rooms[:1] == ['tools'] else ('autoprog_mm', *rooms))
        assert room.is_dir(), path
        mirrored = (room / name).is_file() or (room / name).with_suffix('').is_dir()
        assert mirrored or ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'))), path


def test_what_is_wrong_is_found(tmp_path):
    files = {
        '__init__.py': 'from .growth import deep',
        'growth/__init__.py': '',
        'growth/deep.py': 'import torch\nfrom ..utils import files, Name',
        'growth/left.py': 'def function():\n    from . import right',
        'growth/right.py': 'from .left import name',
        'utils/__init__.py': 'class Name:\n    from ..growth.left import name',
        'utils/files.py': 'import os, autoprog_mm.growth.deep\n' + '\n' * 299,
        'utils/low.py': 'from .. import __version__',
    }
    for name, text in files.items():
        path = tmp_path / 'autoprog_mm' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    imports = read_imports(tmp_path / 'autoprog_mm')
    assert imports['growth.deep'] == {'utils.files', 'utils.__init__'}
    assert imports['__init__'] == {'growth.deep'}
    assert upward(imports) == [
        'utils.__init__ imports growth.left', 'utils.files imports growth.deep',
        'utils.low imports __init__']
    with pytest.raises(CycleError, match='growth.left'):
        TopologicalSorter({name: imports[name] for name in ('growth.left', 'growth.right')}
                          ).prepare()
    assert too_long(tmp_path) == []
    (tmp_path / 'autoprog_mm' / 'utils' / 'files.py').write_text('\n' * 301)
    assert too_long(tmp_path) == ['autoprog_mm/utils/files.py: 301 lines']
