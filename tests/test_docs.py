# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What README and docs say is there, can be called as they say, and means what they say."""
import argparse
import ast
import importlib
import inspect
import re
import shlex
import sys
import warnings
from itertools import product
from pathlib import Path

import mmpretrain
import pytest
from mmengine.config import Config

from autoprog_mm import Subnet, engine
from autoprog_mm.growth.schedule import Stage
from autoprog_mm.growth.scoring import candidate_rows
from autoprog_mm.growth.search import OneShotSearch
from autoprog_mm.record.ledger import ACCOUNTS, SCHEMA, Ledger
from autoprog_mm.registry import GROWTH_OPERATORS
from autoprog_mm.stock import TOOLS as STOCK_TOOLS
from tests.test_tools import load_tool

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
EACH_PAGE = pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
TOP = ('autoprog_mm', 'configs', 'docs', 'requirements', 'tests', 'tools')
# Of paths that the reader has, and what runs write.
THEIRS = {'data', 'work_dirs', 'path', '.venv', 'mim', 'train', 'val'}
# Paths may be short where the text says of what folder it speaks.
FOLDERS = ('', 'configs', 'tools', 'autoprog_mm')
FENCE = re.compile(r'^( *)```(\w*)\n(.*?)^ *```$', re.M | re.S)
LIBRARIES = ('autoprog_mm', 'mmpretrain', 'mmengine', 'mmcv', 'torch')


def text_of(page):
    return page.read_text(encoding='utf-8')


def blocks(page, language):
    return [body for _, kind, body in FENCE.findall(text_of(page)) if kind == language]


def prose(page):
    return FENCE.sub('', text_of(page))


def spans(page):
    return [re.sub(r'\s+', ' ', span) for span in re.findall(r'`([^`]+)`', prose(page))]


def expanded(pattern):
    """A path without its {a,b}."""
    parts = [part.split(',') for part in re.split(r'[{}]', pattern)]
    assert len(parts) == 1 or '{' in pattern and '}' in pattern, pattern
    return [''.join(choice) for choice in product(*parts)]


def exists(pattern, folders=('', )):
    return all(
        any(list((ROOT / folder).glob(path.rstrip('/'))) for folder in folders)
        for path in expanded(pattern))


# ------------------------------------------------------------------- commands


def commands(page):
    """Each command of a page, as a list of words without variables in front."""
    lines = [line for block in blocks(page, 'bash')
             for line in re.sub(r'\\\n\s*', ' ', block).splitlines()]
    lines += [span for span in spans(page) if re.match(r'((\w+=\S+ )*(python )?tools/\S+ )', span)]
    found = []
    for line in lines:
        words = shlex.split(line, comments=True)
        while words and re.match(r'[A-Z_]+=', words[0]):
            words.pop(0)
        if words:
            found.append(words)
    return found


class ParserError(Exception):
    """Brings the parser of a tool."""


_parsers = {}


def parser_of(tool):
    """The parser of a tool, at the point where it would be used."""
    if tool not in _parsers:

        def caught(self, *_):
            raise ParserError(self)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(argparse.ArgumentParser, 'parse_known_args', caught)
            patch.setattr(sys, 'path', [str((ROOT / tool).parent), *sys.path])
            module = load_tool(ROOT / tool)
            with pytest.raises(ParserError) as error:
                getattr(module, 'parse_args', module.main)()
        _parsers[tool] = error.value.args[0]
    return _parsers[tool]


def check_tool(tool, words, capsys):
    assert (ROOT / tool).is_file(), f'there is no {tool}'
    if '...' in words:
        return
    words = ['1' if word == 'N' else word for word in words]  # the only number left open
    try:
        args = parser_of(tool).parse_args(words)
    except SystemExit:
        raise AssertionError(f'{tool} {" ".join(words)}: {capsys.readouterr().err}') from None
    options, config = getattr(args, 'cfg_options', None), getattr(args, 'config', None)
    if options and config and config.startswith('configs/'):
        check_options(config, options)


_configs = {}


def check_options(config, options):
    """All but the last part of a key must be there: the last may be a default that is not set."""
    if config not in _configs:
        _configs[config] = Config.fromfile(ROOT / config)
    for key in options:
        place, parts = _configs[config], key.split('.')
        for part in parts[:-1] or parts:
            place = place[int(part)] if isinstance(place, (list, tuple)) else place.get(part, key)
            assert place is not key, f'{config} has no {part!r} of --cfg-options {key}'


def check_command(words, capsys):
    program, rest = words[0], words[1:]
    for word in words:
        if word.startswith(tuple(f'{top}/' for top in TOP)):
            assert exists(word) or word == 'docs/schedule.svg', f'there is no {word}'
    if program == 'make':
        assert re.search(rf'^{rest[0]}:', (ROOT / 'Makefile').read_text(), re.M), rest[0]
    elif program == '.':
        assert rest == ['.venv/bin/activate']
    elif program.endswith('pip'):
        assert rest[0] == 'install'
        files = [file for option, file in zip(rest, rest[1:]) if option == '-r']
        assert all((ROOT / file).is_file() for file in files), files
    elif program.endswith('mim'):
        if rest[:2] == ['search', 'autoprog_mm']:
            return
        command, package, name = rest[:3]
        assert package == 'autoprog_mm'
        folder, suffix = {'run': ('tools', '.py')}.get(command, ('configs', ''))
        assert list((ROOT / folder).rglob(f'{name}{suffix}')), name
    elif program.startswith('python') and rest[:2] == ['-m', 'venv']:
        assert len(rest) == 3
    elif program.startswith('python') and rest[:2] == ['-m', 'autoprog_mm.stock']:
        assert (STOCK_TOOLS / rest[2]).is_file(), rest[2]
    elif program == 'python' or program.endswith('.py'):
        tool, *rest = rest if program == 'python' else words
        check_tool(tool, rest, capsys)
    elif program.endswith('.sh'):
        assert (ROOT / program).is_file(), f'there is no {program}'
        if rest != ['...']:
            config, number = (rest[2], rest[3]) if 'slurm' in program else (rest[0], rest[1])
            assert config.endswith('.py') and ('slurm' in program or number.isdigit()), words
            check_tool('tools/train.py', [config, *rest[4 if 'slurm' in program else 2:]], capsys)
    else:
        raise AssertionError(f'{program!r} of {" ".join(words)!r} is no program that is known here')


@EACH_PAGE
def test_commands_are_understood(page, capsys):
    for words in commands(page):
        check_command(words, capsys)


def test_commands_are_found():
    """The test above must not pass for want of commands."""
    assert ['tools/dist_train.sh', 'configs/autoprog/deit-s_in1k.py', '8'] in commands(
        ROOT / 'docs/user_guide.md')
    tools = {word for page in PAGES for words in commands(page) for word in words[:2]}
    assert {'tools/train.py', 'tools/test.py', 'tools/export.py', 'tools/plan.py',
            'tools/report.py', 'tools/prepare_dataset.py'} <= tools


# ------------------------------------------------------------ paths and links


@EACH_PAGE
def test_paths_exist(page):
    short = [span for span in spans(page) if re.fullmatch(r'[\w.{},*-]+(/[\w.{},*-]*)+', span)
             and span.split('/')[0] not in THEIRS]
    whole = re.findall(rf'(?<![\w/.])((?:{"|".join(TOP)})/[\w./{{}},*-]*[\w/}}*])', prose(page))
    missing = [path for path in short if not exists(path, FOLDERS)]
    missing += [path for path in whole if not exists(path)]
    assert missing == []


def anchors(page):
    headings = re.findall(r'^#+ (.*)$', prose(page), re.M)
    return [re.sub(r'[^\w -]', '', heading.lower()).replace(' ', '-') for heading in headings]


@EACH_PAGE
def test_links_lead_somewhere(page):
    for target in re.findall(r'\]\(([^)\s]+)\)', prose(page)):
        if target.startswith('https://'):
            continue
        path, _, anchor = target.partition('#')
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), target
        assert not anchor or anchor in anchors(other), target


def test_the_readme_links_every_page():
    linked = {target.partition('#')[0] for target in
              re.findall(r'\]\(([^)\s]+)\)', text_of(PAGES[0]))}
    assert {f'docs/{page.name}' for page in PAGES[1:]} <= linked


# --------------------------------------------------------------------- Python


def resolve(name):
    """Import the longest part of a dotted name that is a module, and look the rest up."""
    parts = name.split('.')
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module('.'.join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


@EACH_PAGE
def test_python_compiles_and_its_imports_work(page):
    for block in blocks(page, 'python'):
        tree = ast.parse(block)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            for node in ast.walk(tree):
                if isinstance(node, ast.Import):
                    [resolve(alias.name) for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    [resolve(f'{node.module}.{alias.name}') for alias in node.names]


def test_a_bare_model_grows():
    names = {}
    exec(blocks(ROOT / 'docs/how_it_works.md', 'python')[0], names)
    assert names['backbone'].awake_subnet == Subnet(8, 160)


@EACH_PAGE
def test_names_exist(page):
    for span in spans(page):
        name = re.fullmatch(rf'((?:{"|".join(LIBRARIES)})(?:\.\w+)+)(\(.*\))?', span)
        if name:
            resolve(name[1])


@EACH_PAGE
def test_bases_of_configs_exist(page):
    for block in blocks(page, 'python'):
        for package, path in re.findall(r"^_base_ = '(\w+)::(.*)'$", block, re.M):
            folder = {'autoprog_mm': ROOT / 'configs',
                      'mmpretrain': Path(mmpretrain.__file__).parent / '.mim/configs'}[package]
            assert (folder / path).is_file(), path


# ---------------------------------------------------------- what options mean

GUIDE = ROOT / 'docs/user_guide.md'


def section(title):
    return re.search(rf'^## {title}\n(.*?)(?=^## |\Z)', text_of(GUIDE), re.M | re.S)[1]


def rows(text, header):
    """Cells of the table below a header."""
    table = text[text.index(header) + len(header):].lstrip('\n').splitlines()[1:]
    end = next((i for i, line in enumerate(table) if not line.startswith('|')), len(table))
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in table[:end]]


@pytest.mark.parametrize('title, kind, complete', [
    ('AutoProgHook', engine.hooks.AutoProgHook, True),
    ('OneShotSearch', OneShotSearch, True),
    ('MoGrowOptimWrapper', engine.optimizers.MoGrowMixin, True),
    ('Checkpoints', engine.hooks.SafeCheckpointHook, False),
    ('Stopping and going on', engine.hooks.RunGuardHook, True),
], ids=lambda value: value if isinstance(value, str) else '')
def test_options_and_defaults(title, kind, complete):
    signature = {name: parameter.default for name, parameter in
                 inspect.signature(kind.__init__).parameters.items()
                 if (name != 'self' and parameter.kind == parameter.POSITIONAL_OR_KEYWORD
                     or parameter.kind == parameter.KEYWORD_ONLY)
                 and parameter.annotation is not None}  # one that has moved takes None only
    documented = {}
    for name, default, _ in rows(section(title), '| option | default | what |'):
        documented[name.strip('`')] = default.strip('`')
    assert set(documented) <= set(signature)
    assert not complete or set(documented) == set(signature)
    for name, default in documented.items():
        # A mutable default stands in the docstring.
        assert eval(default) == signature[name] or signature[name] is None and \
            f'Defaults to ``{default}``' in kind.__doc__, name


def test_hooks():
    names = [name.strip('`') for name, _, _ in
             rows(section('Hooks at a glance'), '| hook | what it does | options |')]
    assert sorted(names) == sorted(name for name in engine.__all__ if name.endswith('Hook'))


def test_operators():
    names = [name.strip('`') for name, _ in
             rows(section('MoGrowOptimWrapper'), '| operator | a waking slot gets |')]
    assert sorted(names) == sorted(GROWTH_OPERATORS.module_dict)


def test_schema_of_the_record():
    ledger = Ledger('ElasticDeiT', Subnet(4, 32), {})
    ledger.begin_stage(Stage(0, 0, 1, Subnet(4, 32), {}), Subnet(4, 32), None)
    text = section('The record')
    assert f'This is schema {SCHEMA}:' in text

    def keys(part):
        return {key for cells in rows(part, '| key | what |')
                for key in re.findall(r'`(\w+)`', cells[0])}

    record, stage, candidate = re.split('A stage:|A candidate:', text)
    assert keys(record) == set(ledger.record())
    assert keys(stage) == set(ledger.stages[0])
    rows_of_search = candidate_rows([Subnet(4, 32)], None, [1.], [[1.]], [1.], 0., 0)
    assert keys(candidate) == set(rows_of_search[0])
    seconds = next(what for key, what in rows(stage, '| key | what |') if key == '`seconds`')
    assert set(re.findall(r'`(\w+)`', seconds)) == set(ACCOUNTS)


# --------------------------------------------------------------- messages

# Messages of others; the rest must be ours.
FOREIGN = {
    'operator torchvision::nms does not exist',
    "No module named 'pkg_resources'",
    'You should install mmcv rather than mmcv-lite',
    'ImportError: ... autoprog_mm',
    'ElasticDeiT is not in the mmpretrain::model registry',
    'CUDA out of memory',
    'address already in use',
    'Expected to have finished reduction in the prior iteration',
}


def texts(path):
    """All texts in a source file, with {} for what is filled in."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.JoinedStr):
            yield ''.join(v.value if isinstance(v, ast.Constant) else '{}' for v in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_messages_are_those_of_the_code():
    text = re.sub(r'\s+', ' ', text_of(ROOT / 'docs/troubleshooting.md'))
    explained = set(re.findall(r'\*\*`([^`]+)`\*\*', text))
    assert explained >= FOREIGN
    ours = [text for folder in ('autoprog_mm', 'tools') for path in (ROOT / folder).rglob('*.py')
            for text in texts(path)]
    assert [m for m in explained - FOREIGN if not any(m in text for text in ours)] == []
