# Copyright (c) the autoprog_mm authors. All rights reserved.
from typing import Optional

import torch
from mmpretrain.models.utils import ClsDataPreprocessor
from mmpretrain.registry import MODELS

from ..utils import resize_batch


@MODELS.register_module()
class ElasticDataPreprocessor(ClsDataPreprocessor):
    """mmpretrain's ``ClsDataPreprocessor`` that can resize training batches.

    While a search samples subnets, each batch is resized on the device to the
    resolution of the step's subnet, before mixup and cutmix see it. Batches in
    pinned memory are copied to the device without waiting for them.

    Args:
        *args: As ``ClsDataPreprocessor``.
        **kwargs: As ``ClsDataPreprocessor``.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._non_blocking = True  # of mmengine's, which mmpretrain's class can't set
        self.resolution: Optional[int] = None

    def forward(self, data: dict, training: bool = False) -> dict:
        """Resize (in training, if :attr:`resolution` is set), normalise, mix.

        Args:
            data (dict): ``inputs``, a tensor of shape (B, C, H, W) or a list
                of (C, H, W), and ``data_samples``.
            training (bool): Whether to resize and to mix. Defaults to False.

        Returns:
            dict: ``inputs`` of shape (B, C, H, W) and ``data_samples``.
        """
        if training and self.resolution is not None:
            inputs = self.cast_data(data['inputs'])
            if isinstance(inputs, torch.Tensor):
                inputs = resize_batch(inputs, self.resolution)
            else:
                inputs = [resize_batch(image[None], self.resolution)[0] for image in inputs]
            data = {**data, 'inputs': inputs}
        return super().forward(data, training)
