# Copyright (c) the autoprog_mm authors. All rights reserved.
import argparse
import sys

import pytest

from autoprog_mm.launch import parse_with_common
from autoprog_mm.launch.arguments import parse


def call(monkeypatch, *argv, tool=None):
    monkeypatch.setattr(sys, 'argv', ['train.py', *argv])
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    parser.add_argument('--work-dir')
    return (tool or parse_with_common)(parser)


@pytest.mark.parametrize('argv, hint', [
    (['--data_root', 'X'], 'no argument --data_root. Did you mean --cfg-options data_root=X?'),
    (['--data-root', 'X'], 'no argument --data-root. Did you mean --cfg-options data_root=X?'),
    (['--data_root=X'], 'no argument --data_root. Did you mean --cfg-options data_root=X?'),
    (['--data_root', '--amp'], 'Did you mean --cfg-options data_root=...?'),
    (['--train_cfg.max_epochs=3'], 'Did you mean --cfg-options train_cfg.max_epochs=3?'),
    (['data_root=X'], 'Did you mean --cfg-options data_root=X?'),
    (['--work_dir', 'X'], 'no argument --work_dir. Did you mean --work-dir?'),
    (['--lancher', 'none'], 'Did you mean --launcher?'),
    (['more'], 'There is no argument more. --help lists all.'),
])
def test_unknown_arguments(monkeypatch, argv, hint):
    with pytest.raises(ValueError) as raised:
        call(monkeypatch, 'a.py', *argv)
    assert str(raised.value).endswith(hint)


def test_without_a_config(monkeypatch):
    with pytest.raises(ValueError, match='There is no argument --data_root. --help lists all.'):
        call(monkeypatch, 'a.py', '--data_root', 'X', tool=parse)


@pytest.mark.parametrize('values, hint', [
    (['data_root'], "got 'data_root'. Did you mean data_root=...?"),
    (['data_root', '=', 'X'], "got 'data_root'. Did you mean data_root=...?"),
    (['a=1', '=X'], "got '=X'."),
    (['=', 'X'], "got '='."),
])
def test_options_that_are_no_pairs(monkeypatch, values, hint):
    with pytest.raises(ValueError) as raised:
        call(monkeypatch, 'a.py', '--cfg-options', *values)
    assert str(raised.value) == (
        f'--cfg-options takes key=value, without spaces around the =, but {hint}')


def test_options_add_up(monkeypatch):
    args = call(monkeypatch, 'a.py', '--cfg-options', 'a=1', 'b.c=[2,3]', '--work-dir', 'w',
                '--cfg-options', 'b.d=x', 'a=4')
    assert args.cfg_options == {'a': 4, 'b.c': [2, 3], 'b.d': 'x'}
    assert (args.config, args.work_dir) == ('a.py', 'w')
