# Copyright (c) the autoprog_mm authors. All rights reserved.
import logging
from typing import List, Optional, Union

import torch.nn as nn
from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmpretrain.registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class MergedOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's constructor with one group for all parameters of equal settings.

    mmengine makes one group a parameter when there is a ``paramwise_cfg``, so
    that a fused or foreach optimizer launches as many kernels as a plain one.
    The updates are the same, bit for bit.

    Args:
        optim_wrapper_cfg (dict): As ``DefaultOptimWrapperConstructor``.
        paramwise_cfg (dict, optional): As ``DefaultOptimWrapperConstructor``.
            Defaults to None.
    """

    def add_params(self,
                   params: List[dict],
                   module: nn.Module,
                   prefix: str = '',
                   is_dcn_module: Optional[Union[int, float]] = None) -> None:
        """Add the parameters of a module, in groups of equal settings."""
        super().add_params(params, module, prefix, is_dcn_module)
        if not prefix:  # of the model, after all of its parts
            params[:] = merge_groups(params)
            self._warn_of_keys(module)

    def _warn_of_keys(self, model: nn.Module) -> None:
        names = [name for name, _ in model.named_parameters()]
        unused = [key for key in self.paramwise_cfg.get('custom_keys', {})
                  if not any(key in name for name in names)]
        if unused:
            print_log(
                f'optim_wrapper.paramwise_cfg.custom_keys: {unused} is in no name of a parameter, '
                f'such as {names[0]!r}, and has no effect.', 'current', logging.WARNING)


def merge_groups(groups: List[dict]) -> List[dict]:
    """Merge parameter groups that differ in their parameters only.

    Args:
        groups (list[dict]): Groups as an optimizer takes them.

    Returns:
        list[dict]: New groups, in the order of the first of each.
    """
    merged: List[dict] = []
    for group in groups:
        settings = {key: value for key, value in group.items() if key != 'params'}
        for other in merged:
            if settings == {key: value for key, value in other.items() if key != 'params'}:
                other['params'] += group['params']
                break
        else:
            merged.append(dict(settings, params=list(group['params'])))
    return merged
