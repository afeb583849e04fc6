# Copyright (c) the autoprog_mm authors. All rights reserved.
from .resumable_train_loop import ResumableTrainLoop

__all__ = ['ResumableTrainLoop']
