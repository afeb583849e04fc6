# Copyright (c) the autoprog_mm authors. All rights reserved.
import torch.nn as nn
from mmengine.model import is_model_wrapper


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside of a model wrapper, or the model itself.

    Args:
        model (Module): Wrapped, as for distributed training, or not.
    """
    return model.module if is_model_wrapper(model) else model
