# Copyright (c) the autoprog_mm authors. All rights reserved.
from typing import List, Sequence, Tuple, Union

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmpretrain.models.heads import ClsHead
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from ..utils.checks import check_number
from ..utils.errors import UserError
from .volo import VOLOFeatures

CLASS_TARGETS = ('label', 'token_label')
# The share of the best token's scores in a prediction, as in timm.
_TOKEN_SHARE = 0.5


@MODELS.register_module()
class VOLOHead(ClsHead):
    """Classifies the class token and each other token (token labeling).

    The training loss is that of the class token plus ``dense_weight`` times
    the mean over the other tokens. What MixToken has mixed, the class token's
    target mixes by area. A token's target is what
    :class:`TokenLabelDataPreprocessor` made of the sample's label map, or,
    without label maps, the target of the whole image.

    Source: Jiang et al., "All Tokens Matter: Token Labeling for Training Better
    Vision Transformers", arXiv 2104.10858.

    Args:
        num_classes (int): Number of classes.
        in_channels (int): Channels of the tokens.
        dense_weight (float): Weight of the tokens' loss. With 0 the head has no
            classifier for tokens, and predicts from the class token alone.
            Defaults to 0.5.
        class_target (str): Target of the class token: the image's ``'label'``,
            or ``'token_label'``, the mean of its label map over the crop, as
            in the TokenLabeling release. Defaults to ``'label'``.
        loss (dict): Loss of scores against targets, of images and of label
            maps, which are probabilities. ``LabelSmoothLoss`` smooths both, as
            in the TokenLabeling release.
            Defaults to ``dict(type='CrossEntropyLoss', use_soft=True)``.
        init_cfg (dict, optional): Initialisation of both classifiers.
            Defaults to ``dict(type='TruncNormal', layer='Linear', std=.02)``.

    Raises:
        ValueError: For a negative ``dense_weight`` or an unknown
            ``class_target``.
    """

    def __init__(
            self,
            num_classes: int,
            in_channels: int,
            dense_weight: float = 0.5,
            class_target: str = 'label',
            loss: dict = dict(type='CrossEntropyLoss', use_soft=True),  # noqa: B006
            init_cfg: Union[dict, List[dict], None] = dict(  # noqa: B006
                type='TruncNormal', layer='Linear', std=.02)) -> None:
        super().__init__(loss=loss, init_cfg=init_cfg)
        check_number('dense_weight of VOLOHead', dense_weight)
        if class_target not in CLASS_TARGETS:
            raise UserError(
                f'class_target of VOLOHead must be one of {CLASS_TARGETS}, but got '
                f'{class_target!r}.')
        self.num_classes = num_classes
        self.dense_weight = dense_weight
        self.class_target = class_target
        self.head = nn.Linear(in_channels, num_classes)
        self.aux_head = nn.Linear(in_channels, num_classes) if dense_weight else None

    def pre_logits(self, feats: Tuple[VOLOFeatures]) -> torch.Tensor:
        """The class token, of shape (B, C).

        Args:
            feats (tuple[VOLOFeatures]): From :class:`ElasticVOLO`.
        """
        return feats[-1].class_token

    def forward(self, feats: Tuple[VOLOFeatures]) -> torch.Tensor:
        """Scores of the class token plus half the best of all tokens, as timm's.

        Args:
            feats (tuple[VOLOFeatures]): From :class:`ElasticVOLO`.

        Returns:
            Tensor: Scores of shape (B, num_classes).
        """
        scores = self.head(self.pre_logits(feats))
        if self.aux_head is not None:
            scores = scores + _TOKEN_SHARE * self.aux_head(feats[-1].tokens).amax(dim=(1, 2))
        return scores

    def loss(self, feats: Tuple[VOLOFeatures], data_samples: Sequence[DataSample],
             **kwargs) -> dict:
        """Losses of the class token and of all others.

        Args:
            feats (tuple[VOLOFeatures]): From :class:`ElasticVOLO`.
            data_samples (Sequence[DataSample]): With ``gt_label`` or
                ``gt_score`` (where they are a target), and ``token_score`` if
                there are label maps.
            **kwargs: Passed on to the loss module.

        Returns:
            dict[str, Tensor]: ``loss_class``, and ``loss_token``, which is
            weighted already.

        Raises:
            ValueError: If ``class_target`` is ``'token_label'`` and the samples
                have no label maps, or if they have some that nobody made
                targets of, or made them for tokens of another size.
        """
        features = feats[-1]
        dense = 'token_score' in data_samples[0]
        if not dense and 'token_label' in data_samples[0]:
            raise UserError(
                'The samples have label maps, but no targets were made of them. Set '
                "data_preprocessor.type to 'TokenLabelDataPreprocessor', or take LoadTokenLabel "
                'out of the training pipeline.')
        losses = dict(loss_class=self._class_loss(features, data_samples, kwargs))
        if self.aux_head is not None:
            token_scores = self.aux_head(features.tokens)  # (B, h, w, num_classes)
            if dense:
                target = torch.stack([sample.token_score for sample in data_samples])
                if target.shape != token_scores.shape:
                    raise UserError(
                        f'Targets of shape {tuple(target.shape)} do not fit scores of shape '
                        f'{tuple(token_scores.shape)} (B, h, w, num_classes): set token_size of '
                        "TokenLabelDataPreprocessor to twice the backbone's patch_size, and its "
                        'num_classes to those of the head.')
                token_scores, target = token_scores.float(), target.flatten(0, 2)
            else:
                target = self._target(data_samples)
                target = target.repeat_interleave(token_scores[0, ..., 0].numel(), dim=0)
            loss = self.loss_module(token_scores.flatten(0, 2), target, **kwargs)
            losses['loss_token'] = self.dense_weight * loss
        return losses

    def _class_loss(self, features: VOLOFeatures, data_samples: Sequence[DataSample],
                    kwargs: dict) -> torch.Tensor:
        scores = self.head(features.class_token)
        if self.class_target == 'token_label':
            if 'token_class_score' not in data_samples[0]:
                raise UserError(
                    "class_target='token_label' of VOLOHead needs label maps: put LoadTokenLabel "
                    'into the training pipeline and use TokenLabelDataPreprocessor.')
            target = torch.stack([sample.token_class_score for sample in data_samples])
        else:
            target = self._target(data_samples)
        share = features.own_share
        if share < 1:
            target = share * target + (1 - share) * target.flip(0)
        if self.class_target == 'token_label':
            scores = scores.float()
        return self.loss_module(scores, target, **kwargs)

    def _target(self, data_samples: Sequence[DataSample]) -> torch.Tensor:
        """The images' labels as float scores of shape (B, num_classes)."""
        if 'gt_score' in data_samples[0]:
            return torch.stack([sample.gt_score for sample in data_samples]).float()
        labels = torch.cat([sample.gt_label for sample in data_samples])
        return F.one_hot(labels, self.num_classes).float()
