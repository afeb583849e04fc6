# Copyright (c) the autoprog_mm authors. All rights reserved.
"""The report's page: what it says, and what a browser makes of it."""
import re
from html.parser import HTMLParser
from itertools import combinations

import numpy as np
import pytest

from autoprog_mm.report import build_page, pictures, read_run
from autoprog_mm.report.colors import COLORS
from tests.report_runs import (
    RUN,
    SEARCH,
    baseline_stages,
    grown_stages,
    stage,
    train_row,
    write_record,
    write_run,
    write_scalars,
)
from tests.test_report.browser import CHROMIUM, look_at


@pytest.fixture(scope='module')
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp('pair')
    return (read_run(write_run(folder / 'run')),
            read_run(write_run(folder / 'base', 'baseline', top1=89.5)))


@pytest.fixture(scope='module')
def page(pair):
    return build_page(*pair)


@pytest.fixture(scope='module')
def open_page(pair, tmp_path_factory):
    """Of a run in its second stage, without a validation, with a loss that was not finite."""
    folder = tmp_path_factory.mktemp('open')
    write_record(folder, grown_stages(), finished=False)
    write_scalars(folder, [train_row(2, 3., 4.), train_row(4, float('nan'), 8.),
                           train_row(6, 2., 9.), train_row(9, 1., 14.)])
    return build_page(read_run(str(folder)), pair[1])


def without_pictures(monkeypatch, *names):
    """Leave out pictures that a test isn't about, for they take time."""
    for name in names:
        monkeypatch.setattr(pictures, f'draw_{name}', lambda *_: '<svg/>')


class _Cells(HTMLParser):
    """Rows of all tables, by the heading above them."""

    def __init__(self):
        super().__init__()
        self.rows, self._heading, self._inside = {}, '', None

    def handle_starttag(self, tag, attrs):
        if tag == 'tr':
            self.rows.setdefault(self._heading, []).append([])
        if tag in ('h2', 'td', 'th'):
            self._inside, self._text = tag, ''

    def handle_data(self, data):
        if self._inside:
            self._text += data

    def handle_endtag(self, tag):
        if tag == self._inside:
            if tag == 'h2':
                self._heading = self._text
            else:
                self.rows[self._heading][-1].append(self._text)
            self._inside = None


def tables(page):
    cells = _Cells()
    cells.feed(page)
    return cells.rows


def figures(page):
    return dict(re.findall(r'<dt>(.*?)</dt><dd class="value">(.*?)</dd>', page))


def test_figures(page):
    assert figures(page) == {
        'Top-1': '90.00 %',
        'Training time': '30.0 s',
        'Speed-up': '2.00×',
        'Top-1 against the baseline': '+0.50',
    }
    assert 'Finished, 4 epochs' in page and 'last validation, after epoch 4' in page
    assert 'the baseline took 60.0 s' in page


def test_tables(page):
    rows = tables(page)
    assert rows['Schedule'][1:] == [['1', '1 to 2', '2', '32', 'search', '10.0'],
                                    ['2', '3 to 4', '4', '32', 'schedule', '20.0']]
    # 1.25 is half of the trend's 2.5 at 40 ms, and all of its 1.25 at 160 ms.
    assert rows['Searches'] == [
        ['Candidate', 'Loss', 'Off the trend', 'Score', 'MFLOPs', 'Step in ms'],
        ['2×16', '10.0000', '+100.00 %', '1', '1', '10'],
        ['2×32 (choice)', '1.2500', '−50.00 %', '0.25', '4', '40'],
        ['4×32', '1.2500', '+0.00 %', '0.5', '8', '160'],
        ['4×16', 'not finite', '–', '–', '2', '80'],
    ]
    assert 'L = 15.81 · T<sup>−0.5</sup>, with T in ms' in page  # 0.5 * 0.001 ** -0.5
    assert [row[1:] for row in rows['Where the seconds went'][1:]] == [
        ['1.0', '7.0', '2.0', '0.0', '3.0', '10.0'],
        ['2.0', '17.5', '0.0', '0.5', '3.0', '20.0'],
        ['3.0', '24.5', '2.0', '0.5', '6.0', '30.0'],
        ['8.3 %', '68.1 %', '5.6 %', '1.4 %', '16.7 %', '83.3 %'],
        ['5.0', '55.0', '0.0', '0.0', '4.0', '60.0'],
    ]
    assert rows['Growths'][1:] == [
        ['2', 'MoGrow', '2×32', '4×32', '0.7500', '1.0000', '+0.2500', '0.500']]
    settings = {row[0]: row[1:] for row in rows['Settings']}
    assert settings['seed'] == ['3', '3'] and settings['dataset.data_root'] == ['data/tiny'] * 2
    assert settings['config'] == ['tiny_<b>', 'tiny_<b>']  # and no markup


def test_it_stands_alone(page):
    # Names of namespaces are no addresses to load from.
    assert set(re.findall(r'https?://[^"\s]+', page)) <= {
        'http://www.w3.org/2000/svg', 'http://www.w3.org/1999/xlink'}
    assert not re.search(r'<(script|link|img|iframe|object)\b|@import|@font-face', page)
    assert "default-src 'none'" in page
    assert re.findall(r'aria-label="(.*?)"', page) == [
        'Depth and resolution over training time in s',
        'Training loss and top-1 over training time in s',
        'Loss over cost of the candidates of stage 1', 'Where the seconds went, by stage']
    # What the pictures name is found, and found once.
    names = re.findall(r'\bid="(.*?)"', page)
    assert len(names) == len(set(names)) > 0
    assert set(re.findall(r'(?:url\(|href=")#([^")]+)', page)) <= set(names)
    # Every colour is one of the page's, which differ in light and dark.
    used = set(re.findall(r'var\(--(\w+)\)', page))
    assert {'run', 'baseline', 'choice', 'data', 'val'} <= used <= set(COLORS)
    body = page.partition('</style>')[2]
    assert set(re.findall(r'#[0-9a-f]{6}\b', body)) <= {'#ffffff', '#000000'}
    assert all(f'--{name}: {color};' in page for name, pair in COLORS.items() for color in pair)


def test_the_same_run_gives_the_same_pictures(pair, page):
    assert pictures.draw_schedule(*pair) in page
    assert pictures.draw_search(pair[0].stages[0].search, 1) in page


def test_a_run_that_goes_on(open_page):
    page = open_page
    assert 'Not finished: 2 of 4 epochs are in the log' in page
    assert figures(page) == {'Top-1': '–', 'Training time': '30.0 s', 'Speed-up': '–',
                             'Top-1 against the baseline': '–'}
    assert page.count('this run not finished') == 2 and 'no validation in the log' in page
    assert 'Gaps in the loss of this run are where it was not finite.' in page
    assert tables(page)['Schedule'][2][4] == 'schedule, or not yet'


def test_a_run_that_has_hardly_begun(tmp_path, monkeypatch):
    without_pictures(monkeypatch, 'schedule', 'accounts')
    write_record(tmp_path, [], finished=False)
    write_scalars(tmp_path, [], tail='{"lo')
    page = build_page(read_run(str(tmp_path)))
    assert 'No stage has begun' in page and '<svg' not in page
    write_record(tmp_path, baseline_stages(), finished=False, run=None)
    page = build_page(read_run(str(tmp_path)))
    assert page.count('none in the log') == 2 and 'of an older version' in page
    assert 'has no search' in page and 'has no growth' in page


def test_without_a_fit(tmp_path, monkeypatch):
    without_pictures(monkeypatch, 'schedule', 'curves', 'accounts')
    candidates = SEARCH['candidates']
    searches = [dict(SEARCH, w=0., candidates=candidates[:2]),
                dict(SEARCH, w=0.2, candidates=candidates[:2]),
                dict(SEARCH, w=0.),
                dict(SEARCH, candidates=candidates[3:]),
                dict(SEARCH, w=0.8),
                dict(SEARCH, rule='compute')]
    stages = [stage(i, i, i + 1, 4, 32, (0., 1., 0., 0., 0.), search=search)
              for i, search in enumerate(searches)]
    page = build_page(read_run(write_run(tmp_path, stages=stages)))
    for number, says in enumerate((
            'After 1 epoch: the least loss wins, for there are too few candidates for a trend.',
            'The exponent is of an earlier search: here are too few candidates for a fit.',
            'it does not fall with cost here (L = 2.5).',  # (10 * 1.25 ** 2) ** (1 / 3)
            'No candidate has a loss that can be drawn.',
            # In the record of an older version, which had a least exponent.
            'The exponent was set to no less, for a fit gives 0.75 only.',
            "After 1 epoch: the least loss at the stage's end wins"), start=1):
        part = page.split(f'<h3>Stage {number}</h3>')[1].partition('<h3>')[0]
        assert says in part


def test_differences_that_may_explain_a_figure(tmp_path, pair, monkeypatch):
    without_pictures(monkeypatch, 'schedule', 'curves', 'search', 'accounts')
    other = read_run(write_run(tmp_path, 'baseline', run={**RUN, 'device': 'GPU <1>'}))
    assert 'differ in device (CPU, 2 threads and GPU &lt;1&gt;).' in build_page(pair[0], other)


# ----------------------------------------------------------------- a browser


def large_run(folder):
    """Nine candidates close to each other, hours, and thousands of losses."""
    rng = np.random.RandomState(0)
    stages = []
    for index in range(4):
        pairs = [(depth, size) for depth in (6, 9, 12) for size in (128, 176, 224)]
        candidates = [
            dict(depth=depth, resolution=size, time=None, flops=1e9 * depth * (size / 128)**2,
                 loss=6.5 - 0.01 * depth + 0.1 * rng.rand(), losses=[], score=1.,
                 chosen=(depth, size) == (9, 176)) for depth, size in pairs
        ]
        search = dict(epochs=2, w=0.02, candidates=candidates) if index < 2 else None
        stages.append(stage(index, 25 * index, 25 * (index + 1), 6 + 2 * index, 128 + 32 * index,
                            (900., 9000. + 3000 * index, 500., 3., 400.),
                            'MoGrow' if index else None, search=search))
    write_record(folder, stages, full=dict(depth=12, resolution=224),
                 run={**RUN, 'epochs': 100, 'steps_per_epoch': 1251})
    total = sum(sum(one['seconds'].values()) - one['seconds']['val'] for one in stages)
    write_scalars(folder, [
        train_row(step, 7. - 4 * step / 125100 + rng.rand(), total * step / 125100, 1251)
        for step in range(100, 125101, 100)])
    return read_run(str(folder))


def contrast(one, other):
    """Contrast of two colours, as in WCAG 2."""
    bright, dim = sorted((_luminance(color) for color in (one, other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def _luminance(color):
    parts = [int(part) / 255 for part in re.findall(r'\d+', color)[:3]]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055)**2.4 for p in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear))


def overlapping(texts):
    """Pairs of texts that cover each other by more than a pixel."""
    return [(a['text'], b['text']) for a, b in combinations(texts, 2)
            if min(a['box'][2], b['box'][2]) - max(a['box'][0], b['box'][0]) > 1
            and min(a['box'][3], b['box'][3]) - max(a['box'][1], b['box'][1]) > 1]


needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason='needs Chromium to render the page: apt-get install chromium')


@needs_browser
@pytest.mark.parametrize('kind, width, dark', [
    ('large', 1200, False), ('pair', 1000, True), ('open', 400, True)])
def test_in_a_browser(kind, width, dark, request, pair, tmp_path):
    if kind == 'large':
        page = build_page(large_run(tmp_path), pair[1])
    else:
        page = request.getfixturevalue(dict(pair='page', open='open_page')[kind])
    seen = look_at(page, tmp_path, width, dark)
    assert seen['requests'] == [] and seen['refused'] == []
    assert seen['scrollWidth'] <= seen['width']  # only pictures and tables scroll, in their boxes
    assert len(seen['pictures']) == 3 + (2 if kind == 'large' else 1)
    light = contrast(seen['page'], 'rgb(255, 255, 255)')
    assert light > 10 if dark else light == 1
    for picture in seen['pictures']:
        left, top, right, bottom = picture['box']
        assert right - left >= 300 and bottom - top >= 70 and picture['parts'] > 5
        assert overlapping(picture['texts']) == [], picture['label']
        for text in picture['texts']:
            assert contrast(text['color'], seen['page']) > 4.5, text
            x0, y0, x1, y1 = text['box']
            assert left - 1 <= x0 < x1 <= right + 1 and top - 1 <= y0 < y1 <= bottom + 1, text
    if width >= 1000:
        assert all(table['width'] <= table['room'] for table in seen['tables'])


@needs_browser
def test_the_browser_is_asked_rightly(tmp_path, page):
    """It would tell of a request, of texts in each other's way, and of dark text on dark."""
    outside = 'http://127.0.0.1:9/picture.png'
    page = page.replace('</body>', f'<img src="{outside}"><svg width="99" height="50">'
                        '<text y="20">one</text><text y="22">other</text></svg></body>')
    seen = look_at(page, tmp_path, 1000, dark=True)
    assert seen['refused'] == [outside]
    assert overlapping(seen['pictures'][-1]['texts']) == [('one', 'other')]
    assert contrast(seen['pictures'][-1]['texts'][0]['color'], seen['page']) < 2
