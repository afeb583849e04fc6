# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Run one of mmpretrain's own tools, with ``autoprog_mm`` imported before.

For example::

    python -m autoprog_mm.stock test.py CONFIG CHECKPOINT
    python -m autoprog_mm.stock analysis_tools/get_flops.py deit-s_in1k

By themselves the tools import it only after they have read a config that asks
for it. So configs can also be based on ``autoprog_mm::...`` and the names of
our models are known. It makes them run, too, where torchvision's compiled
operators don't load.
"""
import runpy
import sys
from pathlib import Path

import mmpretrain

from .compat import give_adjust_bbox_a_renderer

TOOLS = Path(mmpretrain.__file__).parent / '.mim' / 'tools'


def main() -> None:
    """Run ``sys.argv[1]`` in this process, as if it had been started itself."""
    known = ', '.join(sorted(path.relative_to(TOOLS).as_posix() for path in TOOLS.rglob('*.py')))
    usage = f'usage: python -m autoprog_mm.stock TOOL [arguments of TOOL]\n\nTOOLs: {known}'
    if len(sys.argv) < 2:
        print(usage, file=sys.stderr)
        sys.exit(2)
    if sys.argv[1] in ('-h', '--help'):
        print(usage)
        return
    tool = TOOLS / sys.argv[1]
    if not tool.is_file():
        print(f'mmpretrain has no tool {sys.argv[1]!r} in {TOOLS}. It has: {known}.',
              file=sys.stderr)
        sys.exit(2)
    if tool.name == 'browse_dataset.py':
        give_adjust_bbox_a_renderer()
    sys.argv[:] = [str(tool), *sys.argv[2:]]
    sys.path[0] = str(tool.parent)  # as Python does for a script
    runpy.run_path(str(tool), run_name='__main__')


if __name__ == '__main__':
    main()
