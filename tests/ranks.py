# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Training processes of one run, each a fork of the test's own, connected through gloo."""
import socket
from pathlib import Path
from typing import List, Mapping, Optional, Sequence, Tuple

from tests.forked import Forked

TOOLS = Path(__file__).parents[1] / 'tools'
# What a launcher says to each process: the names of torchrun.
NAMES = dict(rank='RANK', size='WORLD_SIZE', local='LOCAL_RANK')
TIMEOUT = 240  # seconds, for what would otherwise hang


def free_port() -> str:
    with socket.socket() as own:
        own.bind(('127.0.0.1', 0))
        return str(own.getsockname()[1])


def start_ranks(tool: str,
                *args,
                folder: Path,
                number: int = 2,
                nodes: int = 1,
                launcher: str = 'pytorch',
                names: Mapping[str, str] = NAMES,
                env: Optional[Mapping[str, str]] = None) -> List[Forked]:
    """Start a tool in as many processes as a launcher would.

    Args:
        tool (str): Name of the script.
        *args: Its arguments.
        folder (Path): Gets the output of each, as ``log0`` and so on.
        number (int): How many processes. Defaults to 2.
        nodes (int): Over how many nodes the launcher would spread them.
            Defaults to 1.
        launcher (str): Option of the tool. Defaults to 'pytorch'.
        names (dict): Of the variables that tell ``rank``, ``size`` and
            ``local`` rank. Defaults to torchrun's.
        env (dict, optional): Further ones. Defaults to None.
    """
    port = free_port()
    return [
        Forked([TOOLS / tool, *args, '--launcher', launcher], env={
            names['rank']: str(rank), names['size']: str(number),
            names['local']: str(rank // nodes), 'MASTER_ADDR': '127.0.0.1',
            'MASTER_PORT': port, **(env or {})}, output=folder / f'log{rank}')
        for rank in range(number)
    ]


def finish_ranks(ranks: Sequence[Forked]) -> List[Tuple[int, str]]:
    """Wait for all; exit status and output of each."""
    return [(rank.wait(TIMEOUT), rank.output) for rank in ranks]


def run_ranks(tool: str, *args, **options) -> str:
    """Run to the end without an error; the output of rank 0."""
    done = finish_ranks(start_ranks(tool, *args, **options))
    for code, output in done:
        assert code == 0, output
    return done[0][1]
