# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What a checkpoint holds, and how it is read again."""
from .comparing import differing_parameters
from .config_text import ConfigText
from .model_config import MODEL_CONFIG, describe_model
from .plain import pack, to_plain, unpack
from .reading import check_resumable, check_whole, choose_checkpoint, load_plain, newest_whole
from .request import request_checkpoint, take_request

__all__ = [
    'MODEL_CONFIG', 'ConfigText', 'check_resumable', 'check_whole', 'choose_checkpoint',
    'describe_model', 'differing_parameters', 'load_plain', 'newest_whole', 'pack',
    'request_checkpoint', 'take_request', 'to_plain', 'unpack'
]
