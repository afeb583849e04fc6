# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What tools/plan.py draws."""
from pathlib import Path
from types import SimpleNamespace

import pytest

from autoprog_mm import Subnet
from autoprog_mm.growth.schedule import Stage
from tests.test_tools import load_tool

TOOL = Path(__file__).parents[2] / 'tools' / 'plan.py'
SMALL, FULL = Subnet(2, 16), Subnet(4, 32)


@pytest.mark.parametrize('seconds, candidates, is_open', [
    (None, [[SMALL, FULL], [FULL]], True), ((3., 4.), [[SMALL], [FULL]], False)])
def test_picture(seconds, candidates, is_open, tmp_path):
    plan = SimpleNamespace(
        full=FULL, epochs=4, stages=[Stage(0, 0, 2, SMALL), Stage(1, 2, 4, FULL)],
        candidates=candidates, seconds=seconds,
        subnets={SMALL: SimpleNamespace(flops=1., seconds=1.),
                 FULL: SimpleNamespace(flops=4., seconds=2.)})
    path = tmp_path / 'plan.svg'
    load_tool(TOOL).draw(plan, str(path))
    shown = path.read_text()
    for text in ('no growth', 'manual schedule', 'Depth', 'Resolution in px',
                 'Cost of a step in % of the full network', 'Epochs'):
        assert f'>{text}<' in shown
    assert ('>open to the search<' in shown) == is_open
    with pytest.raises(ValueError, match='not supported'):
        load_tool(TOOL).draw(plan, str(tmp_path / 'plan.docx'))
