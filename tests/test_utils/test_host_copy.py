# Copyright (c) the autoprog_mm authors. All rights reserved.
from copy import deepcopy

import pytest
import torch

from autoprog_mm.utils.host_copy import HostCopy


def test_copy():
    tensor = torch.tensor([2.5], requires_grad=True)
    copy, flag = HostCopy(tensor), HostCopy(torch.tensor(True))
    tensor.data.zero_()
    assert copy.get() == 2.5 and copy.get() == 2.5
    assert flag.get() is True
    assert (deepcopy(copy).get(), deepcopy(flag).get()) == (2.5, True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_nothing_waits_on_cuda():
    tensor = torch.arange(3., device='cuda')
    torch.cuda.set_sync_debug_mode('error')
    try:
        copy = HostCopy(tensor.sum())
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert copy.get() == 3.
