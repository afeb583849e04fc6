# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Scores of each cell of a classifier's last feature map."""
import math
from typing import Tuple

import torch
import torch.nn as nn
from mmpretrain.models import DeiTClsHead, ImageClassifier

from ...models.volo import VOLOFeatures
from ...utils.errors import UserError


class TimmCells(nn.Module):
    """Scores of each cell from a model of timm.

    Each cell goes through ``forward_head`` as the features of a whole image.
    Where a model has an ``aux_head``, that scores the tokens: it was trained to.

    Args:
        model (nn.Module): With ``forward_features`` and ``forward_head``.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Score each cell.

        Args:
            images (Tensor): Of shape (B, C, H, W).

        Returns:
            Tensor: Of shape (B, h, w, num_classes).
        """
        features = self.model.forward_features(images)
        _check_grid(features, self.model, (3, 4))
        if features.ndim == 4:
            if getattr(self.model, 'output_fmt', 'NCHW') == 'NHWC':
                grid = features.shape[1:3]
                cells = features.reshape(-1, 1, 1, features.shape[3])
            else:
                grid = features.shape[2:]
                cells = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1], 1, 1)
            scores = self.model.forward_head(cells)  # (B * h * w, num_classes)
        else:
            prefix = self._num_prefix_tokens()
            tokens = features[:, prefix:]  # (B, h * w, C)
            side = math.isqrt(tokens.shape[1])
            if not side or side**2 != tokens.shape[1]:
                raise UserError(
                    f'{type(self.model).__name__} gives {tokens.shape[1]} tokens, which are not '
                    'the cells of a square grid. Take a teacher with a feature map.')
            grid = (side, side)
            aux_head = getattr(self.model, 'aux_head', None)
            if aux_head is not None:
                scores = aux_head(tokens)
            else:
                # The token in all places, so that any kind of pooling sees it and it alone.
                tokens = tokens.reshape(-1, 1, tokens.shape[2]).expand(-1, prefix + 1, -1)
                scores = self.model.forward_head(tokens)
        return scores.reshape(len(images), *grid, -1)

    def _num_prefix_tokens(self) -> int:
        if hasattr(self.model, 'num_prefix_tokens'):
            return self.model.num_prefix_tokens
        return int(getattr(self.model, 'cls_token', None) is not None)  # VOLO


class ClassifierCells(nn.Module):
    """Scores of each cell from an ``ImageClassifier`` of mmpretrain.

    The backbone is made to give its feature map, and each cell goes through
    neck and head as the features of a whole image.

    Args:
        classifier (ImageClassifier): Its backbone's kind of output is changed.

    Raises:
        ValueError: If the classifier has no head, or its backbone gives raw
            tokens.
    """

    def __init__(self, classifier: ImageClassifier) -> None:
        super().__init__()
        backbone = classifier.backbone
        self.final_norm: nn.Module = nn.Identity()
        out_type = getattr(backbone, 'out_type', None)
        if out_type == 'raw' or classifier.head is None:
            raise UserError(
                "The teacher must be a classifier with a head, and its backbone's out_type not "
                "'raw', so that it is known how the head uses its features.")
        if out_type in ('cls_token', 'avg_featmap'):
            if out_type == 'avg_featmap' and hasattr(backbone, 'ln2'):
                self.final_norm = backbone.ln2  # of the mean, in mmpretrain
            backbone.out_type = 'featmap'
        if getattr(backbone, 'gap_before_final_norm', False):  # ConvNeXt and others
            backbone.gap_before_final_norm = False
        self.backbone = backbone
        self.neck = classifier.neck
        self.head = classifier.head

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Score each cell.

        Args:
            images (Tensor): Of shape (B, C, H, W).

        Returns:
            Tensor: Of shape (B, h, w, num_classes).
        """
        features = self.backbone(images)[-1]
        if isinstance(features, VOLOFeatures):
            head = self.head.head if self.head.aux_head is None else self.head.aux_head
            return head(features.tokens)
        _check_grid(features, self.backbone, (4, ))
        batch, channels, height, width = features.shape
        cells = self.final_norm(features.permute(0, 2, 3, 1).reshape(-1, channels))
        if self.neck is not None:
            cells = self.neck((cells[..., None, None], ))[-1]
        if isinstance(self.head, DeiTClsHead):  # of the class token and the distillation token
            cells = (cells, cells)
        return self.head((cells, )).reshape(batch, height, width, -1)


def _check_grid(features, model: nn.Module, dimensions: Tuple[int, ...]) -> None:
    if not isinstance(features, torch.Tensor) or features.ndim not in dimensions:
        got = f'a tensor of shape {tuple(features.shape)}' if isinstance(features, torch.Tensor) \
            else f'a {type(features).__name__}'
        raise UserError(
            f'{type(model).__name__} has no grid of features: it gives {got}. Take a teacher with '
            'a feature map or with tokens of patches.')
