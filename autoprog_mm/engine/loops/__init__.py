# Copyright (c) the autoprog_mm authors. All rights reserved.
from .resumable_train_loop import (
    ResumableTrainLoop,
    recipe_validations,
    validate,
    validates,
)

__all__ = ['ResumableTrainLoop', 'recipe_validations', 'validate', 'validates']
