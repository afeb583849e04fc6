# Copyright (c) the autoprog_mm authors. All rights reserved.
import importlib.util
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
