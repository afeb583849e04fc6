# Copyright (c) the autoprog_mm authors. All rights reserved.
import pytest
import torch


@pytest.fixture(autouse=True)
def empty_allow_list():
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    yield
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(allowed)
