# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What the log of a run says of its stages."""
import re
from typing import Iterable, List, Tuple


def read_stages(lines: Iterable[str]) -> Tuple[List[int], List[int]]:
    """The epochs that begin with a growth, and with a search, by the lines of a log."""
    growing, searching, epoch = [], [], 0
    for line in lines:
        stage = re.search(r'Stage \d+/\d+, epochs (\d+) to \d+: (a search among)?', line)
        if stage:
            epoch = int(stage[1])
            searching += [epoch] * bool(stage[2])
        elif re.search(r' Grew \d+x\d+ to ', line):
            growing.append(epoch)
    return growing, searching
