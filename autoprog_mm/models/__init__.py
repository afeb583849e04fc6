# Copyright (c) the autoprog_mm authors. All rights reserved.
from .data_preprocessor import ElasticDataPreprocessor
from .deit import ElasticDeiT
from .elastic import ElasticBackbone
from .token_label import TokenLabelDataPreprocessor
from .volo import ElasticVOLO
from .volo_head import VOLOHead

__all__ = [
    'ElasticBackbone', 'ElasticDataPreprocessor', 'ElasticDeiT', 'ElasticVOLO',
    'TokenLabelDataPreprocessor', 'VOLOHead'
]
