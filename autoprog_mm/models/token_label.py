# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Training targets of single tokens, from label maps."""
import math
from typing import Callable, List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from mmpretrain.models.utils.batch_augments import CutMix, Mixup
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from ..utils.errors import UserError
from .data_preprocessor import ElasticDataPreprocessor


@MODELS.register_module()
class TokenLabelDataPreprocessor(ElasticDataPreprocessor):
    """:class:`ElasticDataPreprocessor` that makes tokens' targets of label maps.

    What of a map is seen in a sample (its crop, its flip, and the resolution
    of the stage or of the search's step) is averaged over each token's place
    and goes through a softmax, on the device. Mixup and CutMix mix these
    targets as they mix the images.

    Args:
        *args: As ``ClsDataPreprocessor``.
        num_classes (int): Number of classes.
        token_size (int): Width and height of a token, in pixels, such as 16
            for VOLO with patches of 8. Defaults to 16.
        **kwargs: As ``ClsDataPreprocessor``.

    Raises:
        ValueError: For batch augmentations other than Mixup and CutMix, whose
            effect on tokens is not known, or for padding.
    """

    def __init__(self, *args, num_classes: int, token_size: int = 16, **kwargs) -> None:
        super().__init__(*args, num_classes=num_classes, **kwargs)
        if self.pad_size_divisor > 1:
            raise UserError(
                'TokenLabelDataPreprocessor cannot pad, since label maps say nothing about the '
                f'padding, but got pad_size_divisor={self.pad_size_divisor}.')
        self.token_size = token_size
        self._mixing: Optional[RecordedMixing] = None
        if self.batch_augments is not None:
            unknown = [type(a).__name__ for a in self.batch_augments.augments
                       if a is not None and type(a) not in (Mixup, CutMix)]
            if unknown:
                raise UserError(
                    f'TokenLabelDataPreprocessor can mix targets of tokens for Mixup and CutMix '
                    f'only, but train_cfg.augments has {unknown}.')
            self.batch_augments = self._mixing = RecordedMixing(self.batch_augments)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Resize, normalise and mix, and in training make the tokens' targets.

        Args:
            data (dict): ``inputs`` and ``data_samples``, which for training
                have ``token_label`` and ``token_label_box`` of
                ``LoadTokenLabel``.
            training (bool): Defaults to False.

        Returns:
            dict: ``inputs`` of shape (B, C, H, W) and ``data_samples``, in
            training with ``token_score`` of shape (h, w, num_classes) and
            ``token_class_score`` of shape (num_classes, ).

        Raises:
            ValueError: In training, if samples have no label maps, maps of
                different shapes or of classes that the model hasn't, or if the
                images are smaller than a token.
        """
        samples = data.get('data_samples')
        if not training or samples is None:
            return super().forward(data, training)
        labels, boxes = self._stack(samples)
        if self._mixing is not None:
            self._mixing.forget()
        result = super().forward(data, training)
        height, width = result['inputs'].shape[-2:]
        if min(height, width) < self.token_size:
            raise UserError(
                f'Images of {height} x {width} pixels are smaller than token_size of '
                f'TokenLabelDataPreprocessor ({self.token_size}).')
        with torch.autocast(self.device.type, enabled=False):
            scores, class_scores = (
                token_scores(labels, boxes, grid, self.num_classes)
                for grid in ((height // self.token_size, width // self.token_size), (1, 1)))
            if self._mixing is not None:
                scores, class_scores = map(self._mixing.mix_tokens, (scores, class_scores))
        for sample, score, class_score in zip(result['data_samples'], scores, class_scores):
            sample.set_field(score, 'token_score', dtype=torch.Tensor)
            sample.set_field(class_score[0, 0], 'token_class_score', dtype=torch.Tensor)
        return result

    def _stack(self, samples: Sequence[DataSample]) -> Tuple[torch.Tensor, torch.Tensor]:
        for sample in samples:
            if 'token_label' not in sample or 'token_label_box' not in sample:
                raise UserError(
                    'TokenLabelDataPreprocessor needs label maps to train with: put LoadTokenLabel '
                    "into the training pipeline, and algorithm_keys=('token_label', "
                    "'token_label_box') into its PackInputs.")
            if sample.token_label.shape != samples[0].token_label.shape:
                raise UserError(
                    'Label maps must have one shape, but that of '
                    f'{sample.get("img_path")} is {tuple(sample.token_label.shape)} and that of '
                    f'{samples[0].get("img_path")} {tuple(samples[0].token_label.shape)}.')
        labels = torch.stack([sample.token_label for sample in samples])
        boxes = torch.stack([sample.token_label_box for sample in samples])
        if labels[:, 1].max() >= self.num_classes:
            raise UserError(
                f'Label maps name class {int(labels[:, 1].max())}, but num_classes of '
                f'TokenLabelDataPreprocessor is {self.num_classes}; that of LoadTokenLabel must be '
                'the same.')
        return labels.to(self.device, non_blocking=True), boxes.to(self.device, non_blocking=True)


class RecordedMixing:
    """A batch augmentation that is watched, to do the same to tokens' targets.

    Its batches get one more channel with each sample's number, and its labels
    one more class a sample. What it makes of them says how much of which other
    sample there is in each pixel.

    Args:
        augment (Callable): Mixup, CutMix, or a random choice between them.
    """

    def __init__(self, augment: Callable) -> None:
        self.augment = augment
        self.augments: List[Callable] = augment.augments
        self.forget()

    def forget(self) -> None:
        """Forget the last batch: what is not mixed then has no part of another."""
        self._partners: Optional[torch.Tensor] = None
        self._shares: Optional[torch.Tensor] = None

    def __call__(self, inputs: torch.Tensor,
                 scores: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        """Mix images and labels, and remember how.

        Args:
            inputs (Tensor): Of shape (B, C, H, W).
            scores (Tensor): Of shape (B, num_classes).

        Returns:
            tuple[Tensor, Tensor]: Both, mixed.
        """
        size, num_classes = len(inputs), scores.shape[1]
        own = torch.arange(size, device=inputs.device)
        numbers = own.to(inputs.dtype).view(-1, 1, 1, 1)
        marked = torch.cat([inputs, numbers.expand(-1, 1, *inputs.shape[-2:])], dim=1)
        identity = torch.eye(size, device=scores.device, dtype=scores.dtype)
        marked, mixed_scores = self.augment(marked, torch.cat([scores, identity], dim=1))
        others = mixed_scores[:, num_classes:] * (1 - identity)
        partners = torch.where(others.sum(1) > 0, others.argmax(1), own)
        distance = (partners - own).view(-1, 1, 1, 1)
        # Where a sample is mixed with itself, there is no distance, and no share.
        self._shares = (marked[:, -1:] - numbers) / torch.where(distance == 0, 1, distance)
        self._partners = partners
        return marked[:, :-1], mixed_scores[:, :num_classes]

    def mix_tokens(self, scores: torch.Tensor) -> torch.Tensor:
        """Mix targets of tokens as the last batch of images was mixed.

        Args:
            scores (Tensor): Of shape (B, h, w, num_classes).

        Returns:
            Tensor: Of the same shape.
        """
        if self._shares is None:
            return scores
        shares = F.adaptive_avg_pool2d(self._shares, scores.shape[1:3]).permute(0, 2, 3, 1)
        return torch.lerp(scores, scores[self._partners], shares)


def token_scores(labels: torch.Tensor, boxes: torch.Tensor, grid: Tuple[int, int],
                 num_classes: int) -> torch.Tensor:
    """What label maps say about the tokens of crops.

    A token's scores are the mean of the map, interpolated bilinearly, over the
    token's place, with 0 for all classes that a cell doesn't name (as in the
    TokenLabeling release), and then a softmax.

    Args:
        labels (Tensor): Label maps of shape (B, 2, k, H, W).
        boxes (Tensor): Top, bottom, left and right of the crops as fractions
            of the maps, of shape (B, 4).
        grid (tuple[int]): Rows and columns of tokens, h and w.
        num_classes (int): Number of classes.

    Returns:
        Tensor: Probabilities of shape (B, h, w, num_classes).
    """
    batch, _, _, height, width = labels.shape
    maps = torch.zeros(batch, num_classes, height, width, device=labels.device)
    maps.scatter_(1, labels[:, 1].long(), labels[:, 0].float())
    rows = _mean_weights(boxes[:, 0], boxes[:, 1], grid[0], height)
    columns = _mean_weights(boxes[:, 2], boxes[:, 3], grid[1], width)
    seen = torch.einsum('bhy,bcyx->bhcx', rows, maps)
    return torch.einsum('bhcx,bwx->bhwc', seen, columns).softmax(dim=-1)


def _mean_weights(begin: torch.Tensor, end: torch.Tensor, num_tokens: int,
                  num_cells: int) -> torch.Tensor:
    """Weights of a map's cells in the mean over each token, along one axis.

    Returns:
        Tensor: Of shape (B, num_tokens, num_cells), the last axis summing to 1.
    """
    points = math.ceil(2 * num_cells / num_tokens)  # at least two a cell
    steps = (torch.arange(num_tokens * points, device=begin.device) + 0.5) / (num_tokens * points)
    places = begin[:, None] + (end - begin)[:, None] * steps  # (B, num_tokens * points)
    # The centre of the first cell is at 0; beyond the outer centres nothing changes.
    places = (places * num_cells - 0.5).clamp(0, num_cells - 1)
    cells = torch.arange(num_cells, device=begin.device)
    weights = (1 - (places[..., None] - cells).abs()).clamp(min=0)
    return weights.unflatten(1, (num_tokens, points)).mean(2)
