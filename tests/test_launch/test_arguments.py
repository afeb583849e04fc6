# Copyright (c) the autoprog_mm authors. All rights reserved.
import pytest

from autoprog_mm.launch import OptionsAction, Parser
from autoprog_mm.launch.arguments import parse_value


@pytest.mark.parametrize('text, value', [
    ('3', 3), ('-1', -1), ('1e-3', 1e-3), ('0123', 123), ('true', True), ('False', False),
    ('...', '...'), ('2j', '2j'),
    ('None', None), ('a', 'a'), ('', ''), ('x=1', 'x=1'), ('abs(1)', 'abs(1)'),
    ('a,b', ['a', 'b']), ('1,2', [1, 2]), ('(1,2)', (1, 2)), ('[a, b]', ['a', 'b']),
    ('(a,b)', ('a', 'b')), ('[(1, 2), [a, b], c]', [(1, 2), ['a', 'b'], 'c']),
    ('"[1,2]"', [1, 2]), ('epoch_{}.pth', 'epoch_{}.pth'),
    # mmengine's own reading makes something else of these.
    ('/my pictures/ä b', '/my pictures/ä b'), ('"a,b"', 'a,b'), ("'2024'", '2024'),
    ('"/my data,/2024"', '/my data,/2024'), ('(1.,)', (1., )), ('[None, True]', [None, True]),
    ("{'a': 1}", dict(a=1)), ('dict(a=dict(b=(1, 2)))', dict(a=dict(b=(1, 2)))),
    ("[dict(type='LocalVisBackend'), dict(type='B', b=-1e-3)]",
     [dict(type='LocalVisBackend'), dict(type='B', b=-1e-3)])])
def test_values(text, value):
    parsed = parse_value(text)
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize('text, message', [
    ('[dict(type=A)]', r"cannot be read\. Write dicts as in Python, with quotes around texts"),
    ('dict(**a)', 'Write dicts as in Python'), ("{'a': }", 'Write dicts as in Python'),
    ('[a,b', 'Imbalanced brackets')])
def test_values_that_are_none(text, message):
    with pytest.raises(ValueError, match=message):
        parse_value(text)


@pytest.fixture
def parser():
    parser = Parser(prog='the_tool.py')
    parser.add_argument('config')
    parser.add_argument('--work-dir')
    parser.add_argument('--cfg-options', nargs='+', action=OptionsAction)
    return parser


def test_options_add_up(parser):
    args = parser.parse_args(['a.py', '--cfg-options', 'a=1', 'b.c=x=y', '--cfg-options', 'd=2'])
    assert args.cfg_options == {'a': 1, 'b.c': 'x=y', 'd': 2}


@pytest.mark.parametrize('args, message', [
    (['--workdir', 'x'], "unrecognized arguments: --workdir x. Did you mean '--work-dir'?"),
    (['--work_dir=x'], "--work_dir=x. Did you mean '--work-dir'?"),
    (['--data_root', 'X'], '--data_root X. Did you mean --cfg-options data_root=X?'),
    (['--data-root=X'], '--data-root=X. Did you mean --cfg-options data_root=X?'),
    (['--data_root', '--work-dir', 'w'], '--data_root. Did you mean --cfg-options data_root=...?'),
    (['train_cfg.max_epochs=1'], 'Did you mean --cfg-options train_cfg.max_epochs=1?'),
    (['more'], 'unrecognized arguments: more. --help lists all.'),
    (['--cfg-options', 'a'], "--cfg-options takes key=value, without spaces around the =, but got "
                             "'a'. Did you mean a=...?"),
    (['--cfg-options', 'a', '=', 'X'], 'Did you mean a=...?'),
    (['--cfg-options', '=a'], "around the =, but got '=a'."),
    (['--cfg-options', 'a=[1'], '--cfg-options a: Imbalanced brackets')])
def test_mistakes(parser, capsys, args, message):
    with pytest.raises(SystemExit, match='2'):
        parser.parse_args(['a.py', *args])
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith('the_tool.py: error: ') and message in last


def test_without_a_config(capsys):
    with pytest.raises(SystemExit):
        Parser(prog='the_tool.py').parse_args(['--data_root', 'X'])
    assert capsys.readouterr().err.endswith('--data_root X. --help lists all.\n')
