# Copyright (c) the autoprog_mm authors. All rights reserved.
from .resumable_train_loop import ResumableTrainLoop, validates

__all__ = ['ResumableTrainLoop', 'validates']
