# Copyright (c) the autoprog_mm authors. All rights reserved.
from .elastic_distributed import ElasticDistributedDataParallel

__all__ = ['ElasticDistributedDataParallel']
