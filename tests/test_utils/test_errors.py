# Copyright (c) the autoprog_mm authors. All rights reserved.
import os

from autoprog_mm.utils.errors import one_line


def test_one_line():
    assert one_line(ValueError('a\n  b.')) == 'ValueError: a b'
    name = os.fsdecode(b'caf\xe9.png')
    assert one_line(OSError(f'{name} is no image')) == 'OSError: caf\\udce9.png is no image'
