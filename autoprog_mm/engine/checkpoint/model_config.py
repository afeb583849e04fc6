# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What a checkpoint says of its model, as plain data."""
from mmengine.config import Config

# Key in a checkpoint. What mmengine saves is a text of Python, which is of use
# only to who runs it.
MODEL_CONFIG = 'model_config'
_KEPT = ('model', 'data_preprocessor', 'classes', 'image_size', 'patch_size')


def describe_model(cfg: Config) -> dict:
    """The parts of a run's config that its model can be built and used with.

    Args:
        cfg (Config): The config.

    Returns:
        dict: ``model``, ``data_preprocessor``, ``classes``, ``image_size`` and
        ``patch_size``, where the config has them.
    """
    return {key: value for key, value in cfg.to_dict().items()
            if key in _KEPT and value is not None}
