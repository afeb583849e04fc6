# Copyright (c) the autoprog_mm authors. All rights reserved.
from typing import Dict, Optional

import torch

_LISTED = 5  # parameters, in a message


def differing_parameters(own: Dict[str, torch.Tensor],
                         weights: Dict[str, torch.Tensor]) -> Optional[str]:
    """How two state dicts differ in names and shapes.

    Args:
        own (dict[str, Tensor]): That of the model.
        weights (dict[str, Tensor]): That of a checkpoint.

    Returns:
        str | None: A few of the differences; None if there are none.
    """
    differing = [f'{name} is {"missing" if name in own else "not in the model"}'
                 for name in sorted(own.keys() ^ weights.keys())]
    differing += [f'{name} is of shape {tuple(weights[name].shape)} instead of {tuple(v.shape)}'
                  for name, v in own.items() if name in weights and weights[name].shape != v.shape]
    if not differing:
        return None
    more = len(differing) - _LISTED
    return ', '.join(differing[:_LISTED]) + (f', and {more} keys more' if more > 0 else '')
