# Copyright (c) the autoprog_mm authors. All rights reserved.
from .configs import config_path, get_config, register_configs
from .overlay import overlay

__all__ = ['config_path', 'get_config', 'overlay', 'register_configs']
