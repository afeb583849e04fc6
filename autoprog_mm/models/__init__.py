# Copyright (c) the autoprog_mm authors. All rights reserved.
from .data_preprocessor import ElasticDataPreprocessor
from .deit import ElasticDeiT
from .elastic import ElasticBackbone

__all__ = ['ElasticBackbone', 'ElasticDataPreprocessor', 'ElasticDeiT']
