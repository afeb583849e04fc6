# Copyright (c) the autoprog_mm authors. All rights reserved.
from .data_preprocessor import ElasticDataPreprocessor
from .deit import ElasticDeiT
from .elastic import ElasticBackbone
from .token_label import TokenLabelDataPreprocessor
from .volo import ElasticVOLO
from .volo_head import VOLOHead
from .weights import SAVED_IN_MODEL, STATE, read_weights

__all__ = [
    'SAVED_IN_MODEL', 'STATE', 'ElasticBackbone', 'ElasticDataPreprocessor', 'ElasticDeiT',
    'ElasticVOLO', 'TokenLabelDataPreprocessor', 'VOLOHead', 'read_weights'
]
