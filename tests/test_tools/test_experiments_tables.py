# Copyright (c) the autoprog_mm authors. All rights reserved.
"""tools/experiments: tables and curves of results, and those on the page."""
import json
import re
from math import lgamma, pi
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from autoprog_mm.report.colors import LIGHT
from tests.forked import run_script

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / 'tools' / 'experiments'
RESULTS = sorted((ROOT / 'docs' / 'results').glob('*.json'))
PAGE = ROOT / 'docs' / 'results.md'
# Of suites as they were: figures of those of today are to replace these.
OLD_RESULTS = {'cifar10_cpu', 'mnist5k'}

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(TOOLS)
    import budgets as budgets_tool
    import paired
    import table
    from results import check_old_results
    from suite import read_suite


def result(arm, seed, top1, seconds, compute=0.4, **other):
    stage = dict(subnet=dict(depth=2, resolution=16), search=None,
                 seconds=dict(data=1., train=seconds - 1.5, search=0., growth=0.5, val=9.))
    record = dict(stages=[stage], train_seconds=seconds,
                  run=dict(device='CPU, 1 threads', versions=dict(torch='2.13.0')))
    return dict(arm=arm, seed=seed, top1=top1, top1_online=top1 - 1, compute=compute,
                train_seconds=seconds, date='2026-01-02', jobs=2, cores=1, record=record,
                machine=dict(cpu='a CPU', cores=2, python='3.11.7', gpu=None), **other)


@pytest.fixture
def results(tmp_path):
    runs = [result('baseline', 1, 90., 100., 1.), result('baseline', 2, 91., 110., 1.),
            result('baseline', 3, 92., 120., 1.), result('prog', 1, 91., 50.),
            result('prog', 2, 91.5, 50.), result('prog', 3, 94., 80.)]
    path = tmp_path / 'results.json'
    path.write_text(json.dumps(dict(
        schema=2, suite='s', seeds=[1, 2, 3], arms=dict(baseline={}, prog={}, other={}),
        runs=runs, tables=[
            dict(name='main', arms=['baseline', 'prog', 'other']),
            dict(name='ema', kind='weights', arms=['prog']),
            dict(name='ledger', kind='ledger', arms=['prog'])])))
    return path


# Strict: the mark goes when new figures come.
committed = pytest.mark.parametrize('path', [
    pytest.param(path, id=path.stem, marks=[pytest.mark.xfail(
        strict=True, reason='of a suite as it was')] if path.stem in OLD_RESULTS else [])
    for path in RESULTS])


def test_paired_differences_by_hand():
    """Differences 1, 0.5, 2: mean 7/6, s = sqrt(7/12), t(2) = 4.303."""
    found = paired.paired({1: 91., 2: 91.5, 3: 94., 9: 0.}, {1: 90., 2: 91., 3: 92.})
    assert found.mean == pytest.approx(7 / 6)
    assert found.half == pytest.approx(4.303 * (7 / 12)**0.5 / 3**0.5)
    assert found.pairs == 3 and str(found) == '+1.17 [-0.73, +3.06], 3 pairs'
    assert str(paired.paired({1: 2.}, {1: 1.})) == '+1.00 (one pair)'
    assert paired.paired({1: 2.}, {2: 1.}) is None


def test_t_quantiles():
    """By integrating Student's density, in place of looking them up."""
    for freedom, quantile in enumerate(paired.T_975, 1):
        x = np.linspace(0, quantile, 200001)
        log_scale = lgamma((freedom + 1) / 2) - lgamma(freedom / 2) - np.log(freedom * pi) / 2
        density = np.exp(log_scale - (freedom + 1) / 2 * np.log1p(x**2 / freedom))
        assert 0.5 + np.trapezoid(density, x) == pytest.approx(0.975, abs=5e-5)


def test_table_by_hand(results):
    lines = table.Results(str(results)).table('main').splitlines()
    assert lines[2] == '| baseline | 3 | 91.00 ± 1.00 |  |  | 110.0 ± 10.0 |  |  |'
    # (100 + 110 + 120) / (50 + 50 + 80) = 1.83; 100/50, 110/50 and 120/80 by seed.
    assert lines[3] == ('| prog | 3 | 92.17 ± 1.61 | +1.17 [-0.73, +3.06], 3 pairs | 2.50x | '
                        '60.0 ± 17.3 | 1.83x | 1.50 to 2.20 |')
    assert lines[-1] == 'Not run: other.'


def test_missing_seeds_are_told(results):
    data = json.loads(results.read_text())
    data['runs'] = [row for row in data['runs'] if (row['arm'], row['seed']) != ('prog', 2)]
    results.write_text(json.dumps(data))
    text = table.Results(str(results)).table('main')
    # 91 - 90 and 94 - 92; (100 + 120) / (50 + 80).
    assert '| +1.50 [-4.85, +7.85], 2 pairs |' in text and '| 1.69x |' in text
    assert text.endswith('\nNot run: prog (seeds 2); other.\n')


def test_other_tables(results):
    results = table.Results(str(results))
    assert '| prog | 3 | 92.17 ± 1.61 | 91.17 ± 1.61 | +1.00 [+1.00, +1.00], 3 pairs |' in \
        results.table('ema')
    assert '| prog | 1 | 1.0 | 58.5 | 0.0 | 0.5 |' in results.table('ledger')
    assert results.table('runs').count('\n') == 2 + 6
    assert '2026-01-02: a CPU, 2 cores, 2 runs at once with 1 cores each; torch 2.13.0, ' in \
        results.table('machine')
    with pytest.raises(ValueError, match="no table 'mein'"):
        results.table('mein')


# ------------------------------------------------------------- budgets, curve


def full(speedup):
    return dict(hook=dict(num_stages=1, speedup=speedup))


def grown(kind, speedup):
    return dict(hook=dict(num_stages=4, speedup=speedup), optim_wrapper=dict(growth=kind))


@pytest.fixture
def budgets(tmp_path):
    """Two seeds, of which the second is better by 2 % all over and takes twice as long.

    At 50 % growth is between 'growth 2' and 'growth 8', half way up, so at half of the
    logarithm: 4 times less. Its seconds are 600 / 1.5 and 600 / 6 there, so 3 times less.
    """
    arms = {'full': dict(), 'full 2': full(2), 'growth 8': grown('MoGrow', 8),
            'growth 2': grown('MoGrow', 2), 'full 8': full(8), 'search 2': grown('Stacking', 2)}
    figures = {'full': (50, 1, 600), 'full 2': (44, 1 / 2, 300), 'full 8': (20, 1 / 10, 60),
               'growth 2': (56, 1 / 2, 400), 'growth 8': (44, 1 / 8, 100),
               'search 2': (40, 1 / 2, 300)}
    runs = [result(arm, seed, top1 + 2. * seed, seconds * (1. + seed), compute)
            for arm, (top1, compute, seconds) in figures.items() for seed in (0, 1)]
    path = tmp_path / 'results.json'
    path.write_text(json.dumps(dict(
        schema=2, suite='s', seeds=[0, 1], arms=arms, runs=runs, tables=[
            dict(name=name, kind=name, arms=list(arms)) for name in ('equal', 'curve')] + [
            dict(name='rivals', kind='rivals', arms=list(arms))])))
    return path


def test_rivals_have_the_same_speedup(budgets):
    lines = table.Results(str(budgets)).table('rivals').splitlines()
    # Of two equal differences the interval is a point.
    assert lines[2:] == [
        '| 8 | growth 8 | 2 and 2 | 45.00 ± 1.41 | 21.00 ± 1.41 | +24.00 [+24.00, +24.00], '
        '2 pairs | 8.00x | 10.00x |',
        '| 2 | growth 2 | 2 and 2 | 57.00 ± 1.41 | 45.00 ± 1.41 | +12.00 [+12.00, +12.00], '
        '2 pairs | 2.00x | 2.00x |',
        '| 2 | search 2 | 2 and 2 | 41.00 ± 1.41 | 45.00 ± 1.41 | -4.00 [-4.00, -4.00], '
        '2 pairs | 2.00x | 2.00x |']


def test_speed_up_at_equal_accuracy_is_read_off_each_kind_of_growth(budgets):
    lines = table.Results(str(budgets)).table('equal').splitlines()
    assert lines[2:] == [
        '| growth | full | 51.00 | 4.00 [4.00, 4.00] | 3.00 [3.00, 3.00] | 2 |',
        # 'growth 8' is as good as 'full 2', with a quarter of its multiply-adds.
        '| growth | full 2 | 45.00 | at least 4.00 | at least 3.00 | 2 |',
        '| growth | full 8 | 21.00 | at least 0.80 | at least 0.60 | 2 |',
        '| search 2 | full | 51.00 | below 2.00 | below 2.00 | 2 |',
        '| search 2 | full 2 | 45.00 | below 1.00 | below 1.00 | 2 |',
        '| search 2 | full 8 | 21.00 | at least 0.20 | at least 0.20 | 2 |']


def test_kinds_of_growth_whose_names_begin_alike_stay_apart():
    arms = {'full': dict(), 'growth 2': grown('MoGrow', 2), 'growth 3': grown('MoGrow', 3),
            'growth 2 keep': grown('Stacking', 2), 'growth 3 keep': grown('Stacking', 3),
            'half': full(2), 'a': grown('IdentityInit', 2), 'b': grown('IdentityInit', 3)}
    assert budgets_tool.families(arms, list(arms)) == {
        'full, half': ['full', 'half'], 'growth': ['growth 2', 'growth 3'],
        'growth 2 keep, growth 3 keep': ['growth 2 keep', 'growth 3 keep'], 'a, b': ['a', 'b']}


def test_equal_accuracy_is_of_seeds_that_all_arms_have(budgets):
    data = json.loads(budgets.read_text())
    data['runs'] = [row for row in data['runs'] if (row['arm'], row['seed']) != ('growth 8', 1)]
    budgets.write_text(json.dumps(data))
    text = table.Results(str(budgets)).table('equal')
    assert '| growth | full | 50.00 | 4.00 | 3.00 | 1 |' in text
    assert '| search 2 | full | 51.00 | below 2.00 | below 2.00 | 2 |' in text
    assert text.endswith('Not run: growth 8 (seeds 1).\n')


def test_curve_is_drawn_beside_its_results_and_linked(budgets, tmp_path):
    page = tmp_path / 'docs' / 'page.md'
    page.parent.mkdir()
    page.write_text('<!-- table: s curve -->\n<!-- end -->\n')
    done = run_script(str(TOOLS / 'table.py'), str(budgets), '--into', str(page))
    assert done.returncode == 0, done.stdout
    svg = tmp_path / 'results-curve.svg'
    text, linked = svg.read_text(encoding='utf-8'), page.read_text(encoding='utf-8')
    assert linked.splitlines()[2].endswith('](../results-curve.svg)')
    assert 'growth 8: 45.00 ± 12.71 % at 0.125 of the multiply-adds and 150 s; ' in linked
    results = table.Results(str(budgets))
    assert results.curves() == {str(svg): text}
    assert table.fill(linked, {'s': results}, str(page.parent)) == linked

    assert len(text) < 40_000 and '<dc:date>' not in text and 'fill: #ffffff' in text
    root = ElementTree.fromstring(text)
    words = [''.join(part.itertext()) for part in root.iter('{http://www.w3.org/2000/svg}text')]
    assert {'equal for 4.0× less compute', 'equal for 3.0× less time', 'full network', 'growth',
            'search 2', '1', '1/2', '1/8', 'Training time in minutes'} <= set(words)


def test_points_of_a_curve_are_where_they_belong(budgets):
    """On logarithmic axes of cost, the full network at 1, 1/2 and 1/10, growth at 1/2 and 1/8."""
    name = '{http://www.w3.org/2000/svg}'
    svg, = table.Results(str(budgets)).curves().values()
    parts = {part.get('id'): part for part in ElementTree.fromstring(svg).iter(f'{name}g')}
    for axes, full, growth in (('axes_1', [1, 1 / 2, 1 / 10], [1 / 2, 1 / 8]),
                               ('axes_2', [600, 300, 60], [400, 100])):
        found = {}
        for use in parts[axes].iter(f'{name}use'):
            key = use.get('{http://www.w3.org/1999/xlink}href'), use.get('style')
            found.setdefault(key, []).append((float(use.get('x')), float(use.get('y'))))
        lines = []
        for color, costs in (('baseline', full), ('run', growth)):
            # Ends of intervals are markers, too, two for each point.
            points, = (points for (_, look), points in found.items()
                       if LIGHT[color] in look and len(points) == len(costs))
            lines.append(points)
        x, y = np.array(lines[0] + lines[1]).T
        cost, top1 = np.log(full + growth), np.array([51, 45, 21, 57, 45])
        for drawn, value in ((x, cost), (y, top1)):
            fitted = np.polyval(np.polyfit(value, drawn, 1), value)
            assert np.abs(drawn - fitted).max() < 0.01
        assert x[0] > x[1] and y[0] < y[1]


def test_curve_of_more_lines_than_can_be_told_apart(budgets):
    data = json.loads(budgets.read_text())
    for name in ('a', 'b'):
        data['arms'][name] = grown(name, 2)
        data['runs'].append(result(name, 0, 50., 100.))
        data['tables'][1]['arms'].append(name)
    budgets.write_text(json.dumps(data))
    with pytest.raises(ValueError, match='4 lines, but got full network, growth, search 2, a, b'):
        table.Results(str(budgets)).curves()


def test_suite_that_has_not_run_has_no_curve(budgets):
    data = json.loads(budgets.read_text())
    for arms in ({'full'}, {'growth 2', 'growth 8'}, set()):
        budgets.write_text(json.dumps(dict(
            data, runs=[row for row in data['runs'] if row['arm'] in arms])))
        results = table.Results(str(budgets))
        assert results.curves() == {}
        for name in ('curve', 'equal', 'rivals'):
            assert results.table(name).startswith('Not run: ')


# --------------------------------------------------------------------- the page


def test_page_is_filled_and_the_rest_stays(results):
    page = ('# A\n<!-- table: s main -->\nold\n<!-- end -->\ntext\n'
            '<!-- table: t main -->\nother\n<!-- end -->\n')
    filled = table.fill(page, {'s': table.Results(str(results))})
    assert 'old' not in filled and '| prog | 3 |' in filled
    assert filled.startswith('# A\n') and filled.endswith(
        '\ntext\n<!-- table: t main -->\nother\n<!-- end -->\n')
    assert table.fill(filled, {'s': table.Results(str(results))}) == filled


@committed
def test_page_has_the_tables_of_the_committed_results(path):
    """No figure on the page was typed, and all that was run is there."""
    results = table.Results(str(path))
    text = PAGE.read_text(encoding='utf-8')
    assert table.fill(text, {results.suite: results}, str(PAGE.parent)) == text
    for svg, drawn in results.curves().items():  # the same points, by whatever matplotlib
        points = re.search('<dc:description>(.+?)</dc:description>', drawn)[1]
        assert points in Path(svg).read_text(encoding='utf-8')
    places = [(suite, name) for _, suite, name, _, _ in table.PLACE.findall(text)]
    assert {suite for suite, _ in places} == {path.stem for path in RESULTS}
    assert {name for suite, name in places if suite == results.suite} == {
        'machine', 'runs', *results.tables}


@committed
def test_committed_results_are_of_matched_runs(path):
    """Of the suite's configs, on the same machine; a seed once an arm, and no path of a machine."""
    data = json.loads(path.read_text())
    suite = ROOT / 'configs' / 'experiments' / f'{data["suite"]}.py'
    check_old_results(read_suite(str(suite)), str(suite.parent), {}, str(path))
    assert 'data_root' not in path.read_text()
    by_base = {}
    for row in data['runs']:
        told = row['record']['run']
        assert told['seed'] == row['seed'] and row['record']['finished']
        by_base.setdefault(data['arms'][row['arm']]['base'], set()).add(json.dumps(
            [told[key] for key in ('epochs', 'batch_size', 'steps_per_epoch', 'samples',
                                   'dataset', 'versions', 'device')] +
            [row['machine'], row['jobs'], row['cores']]))
    assert all(len(kinds) == 1 for kinds in by_base.values())
    pairs = [(row['arm'], row['seed']) for row in data['runs']]
    assert len(pairs) == len(set(pairs))
