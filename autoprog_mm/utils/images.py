# Copyright (c) the autoprog_mm authors. All rights reserved.
from typing import Optional

import torch
import torch.nn.functional as F


def resize_batch(images: torch.Tensor, resolution: Optional[int]) -> torch.Tensor:
    """Resize a batch on its device, bilinearly.

    Args:
        images (Tensor): Of shape (B, C, H, W), any type.
        resolution (int | None): Height and width to give. None, or the size
            that the batch has, leaves it as it is.

    Returns:
        Tensor: Of shape (B, C, resolution, resolution); float where resized.
    """
    if resolution is None or images.shape[-2:] == (resolution, resolution):
        return images
    return F.interpolate(
        images.to(torch.promote_types(images.dtype, torch.float32)),
        size=(resolution, resolution), mode='bilinear', align_corners=False)
