# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What a run has computed, counted."""
from typing import Callable

from autoprog_mm import Subnet
from autoprog_mm.growth.scoring import search_passes
from autoprog_mm.utils import Randomness


def spent_compute(record: dict, flops: Callable[[Subnet], float], search=None) -> float:
    """Multiply-adds of all training steps of a run, its searches included.

    It is counted, whatever was promised: of each step of a search, by the
    subnet that was drawn for it. Validation is not in it.

    Args:
        record (dict): Of a run that is finished.
        flops (Callable): Multiply-adds of an image's forward pass, of a subnet.
        search (OneShotSearch, optional): The run's search, of which the
            settings are read. Defaults to None.

    Returns:
        float: A share of what the full network takes for the recipe's epochs.
    """
    run, full = record['run'], flops(Subnet(**record['full']))
    steps, seed = run['steps_per_epoch'], Randomness(run['seed'], 0)
    spent = 0.
    for stage in record['stages']:
        begin = stage['begin_epoch']
        if stage['search'] is not None:
            costs = [flops(Subnet(c['depth'], c['resolution']))
                     for c in stage['search']['candidates']]
            searched = begin + stage['search']['epochs']
            spent += sum(costs[seed.subnet(step) % len(costs)]
                         for step in range(begin * steps, searched * steps))
            spent += search_passes(search, steps) * sum(costs)
            begin = searched
        spent += (stage['end_epoch'] - begin) * steps * flops(Subnet(**stage['subnet']))
    return spent / (run['epochs'] * steps * full)
