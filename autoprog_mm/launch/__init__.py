# Copyright (c) the autoprog_mm authors. All rights reserved.
from ..utils.config_files import read_config
from .arguments import OptionsAction, Parser, add_speedup, parse_with_common
from .checks import (
    MissingDataError,
    check_checkpoint,
    check_datasets,
    check_init_cfg,
    check_work_dir,
)
from .device import AMP_TYPES
from .errors import exit_on_user_error, user_message
from .prepare import build_runner, prepare_config

__all__ = [
    'AMP_TYPES', 'MissingDataError', 'OptionsAction', 'Parser', 'add_speedup', 'build_runner',
    'check_checkpoint', 'check_datasets', 'check_init_cfg', 'check_work_dir', 'exit_on_user_error',
    'parse_with_common',
    'prepare_config', 'read_config', 'user_message'
]
