# Copyright (c) the autoprog_mm authors. All rights reserved.
import importlib.util
import runpy
import sys
from pathlib import Path
from types import ModuleType

import pytest


def load_tool(path: Path) -> ModuleType:
    """Import a tool, which is no part of a package, from its file; what lies beside it is found."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path.parent)
        spec.loader.exec_module(module)
    return module


def run_tool(path: Path, *args) -> object:
    """Run a tool in this process as a script.

    Args:
        path (Path): Of the script.
        *args: Its arguments.

    Returns:
        int | str | None: What it exits with.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [str(path), *map(str, args)])
        patch.syspath_prepend(path.parent)
        try:
            runpy.run_path(str(path), run_name='__main__')
        except SystemExit as ended:
            return ended.code
    return None
