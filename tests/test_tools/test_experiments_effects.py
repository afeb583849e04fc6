# Copyright (c) the autoprog_mm authors. All rights reserved.
"""tools/experiments: what each setting does, of arms that differ in several."""
import json
from pathlib import Path

import pytest

from tests.test_tools.test_experiments_tables import result

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(Path(__file__).parents[2] / 'tools' / 'experiments')
    import effects
    import table


def arm(num_stages, scale, growth):
    return dict(base='x.py', hook=dict(num_stages=num_stages, initial_scale=dict(
        depth=scale, resolution=scale), search=None), optim_wrapper=dict(growth=dict(type=growth)))


def test_settings_that_vary():
    found = effects.varied([arm(2, 0.4, 'MoGrow'), arm(4, 0.5, 'MoGrow'), arm(4, 0.4, 'MoGrow'),
                            dict(base='x.py')])
    # All of growth but the number of stages and the scale are the same, but in the last one.
    both = 'hook.initial_scale.depth, hook.initial_scale.resolution'
    rest = 'hook.search, optim_wrapper.growth.type'
    assert found == [
        {'hook.num_stages': '2', both: '0.4', rest: 'None'},
        {'hook.num_stages': '4', both: '0.5', rest: 'None'},
        {'hook.num_stages': '4', both: '0.4', rest: 'None'},
        {'hook.num_stages': 'default', both: 'default', rest: 'default'}]


# Two settings, two values each: rows of a table, whose cells are 10 11 / 13 16.
SQUARE = [dict(a='1', b='1'), dict(a='1', b='2'), dict(a='2', b='1'), dict(a='2', b='2')]


def test_effects_of_a_square_by_hand():
    """Means of a are 10.5 and 14.5, of b 11.5 and 13.5. The sum leaves +-0.5 in each of four
    cells: with one degree of freedom, s = 1, and a difference of two means of two has s."""
    found = effects.main_effects(SQUARE, [10., 11., 13., 16.])
    assert {key: pytest.approx(value) for key, value in found.items()} == {
        ('a', '2'): (4., 12.706), ('b', '2'): (2., 12.706)}


def test_without_a_run_to_spare_there_is_no_interval():
    assert effects.main_effects(SQUARE[:3], [10., 11., 13.]) == {
        ('a', '2'): (pytest.approx(3.), None), ('b', '2'): (pytest.approx(1.), None)}


def test_what_cannot_be_told_apart_is_left_out():
    """c is 2 where a is, but for the names: only b stands alone."""
    runs = [dict(run, c='x' if run['a'] == '1' else 'y') for run in SQUARE]
    assert list(effects.main_effects(runs, [10., 11., 13., 16.])) == [('b', '2')]


def test_table(tmp_path):
    arms = {'two': arm(2, 0.4, 'MoGrow'), 'four': arm(4, 0.4, 'MoGrow'),
            'two smooth': arm(2, 0.4, 'IdentityInit'), 'four smooth': arm(4, 0.4, 'IdentityInit')}
    tops = dict(zip(arms, (10., 11., 13., 16.)))
    path = tmp_path / 'results.json'
    path.write_text(json.dumps(dict(
        schema=2, suite='s', seeds=[1], arms=arms,
        runs=[result(name, 1, top1, 50.) for name, top1 in tops.items()],
        tables=[dict(name='all', kind='effects', arms=list(arms))])))
    assert table.Results(str(path)).table('all').splitlines()[2:] == [
        '| hook.num_stages | 2 | 2 | 11.50 |  |',
        '| hook.num_stages | 4 | 2 | 13.50 | +2.00 [-10.71, +14.71] |',
        '| optim_wrapper.growth.type | MoGrow | 2 | 10.50 |  |',
        '| optim_wrapper.growth.type | IdentityInit | 2 | 14.50 | +4.00 [-8.71, +16.71] |']
