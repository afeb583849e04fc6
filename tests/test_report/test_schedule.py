# Copyright (c) the autoprog_mm authors. All rights reserved.
"""The drawer of schedules, and the files that it is drawn into."""
from matplotlib.figure import Figure

from autoprog_mm import Subnet
from autoprog_mm.report.colors import LIGHT, STAND_IN
from autoprog_mm.report.schedule import PARTS, Band, Line, plot_schedule
from autoprog_mm.report.style import picture_file

SMALL, FULL = Subnet(2, 16), Subnet(4, 32)


def plot(axes):
    plot_schedule(
        axes, PARTS, [FULL], [Line('run', LIGHT['run'], 2, [(0, 2, SMALL), (2, 3, FULL)])],
        [Band(0, 1, [Subnet(3, 16), SMALL]), Band(2, 3, [SMALL, FULL])], 'tried', LIGHT['search'])


def test_lines_and_bands():
    axes = Figure().subplots(2)
    plot(axes)
    for axis, values, bands in zip(axes, ((2, 4), (16, 32)), (((2, 3), (2, 4)),
                                                              ((16, 16), (16, 32)))):
        line, = axis.lines
        assert list(line.get_xdata()) == [0, 2, 2, 3]
        assert list(line.get_ydata()) == [values[0]] * 2 + [values[1]] * 2
        boxes = [band.get_paths()[0].get_extents() for band in axis.collections]
        assert [(box.x0, box.x1) for box in boxes] == [(0, 1), (2, 3)]
        assert tuple((box.y0, box.y1) for box in boxes) == bands
        assert axis.get_legend_handles_labels()[1] == ['run', 'tried']  # each once
        assert axis.get_ylim()[0] == 0 and axis.get_ylim()[1] > values[1]
    assert [axis.get_title(loc='center') for axis in axes] == ['Depth', 'Resolution in px']


def test_the_same_picture_gives_the_same_file(tmp_path):
    written = []
    for name in ('one.svg', 'other.svg'):
        with picture_file(str(tmp_path / name), 2, 3) as axes:
            plot(axes)
        written.append((tmp_path / name).read_text())
    assert written[0] == written[1]
    assert all(f'>{text}<' in written[0] for text in ('Depth', 'run', 'tried'))
    # Real colours, on white.
    assert all(LIGHT[name] in written[0] for name in ('page', 'ink', 'run', 'search'))
    assert not any(color in written[0] for color in STAND_IN.values())
