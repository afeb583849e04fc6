# Copyright (c) the autoprog_mm authors. All rights reserved.
from typing import Sequence, Tuple

import torch
import torch.nn as nn
from mmengine.model import PretrainedInit, initialize
from mmpretrain.models.backbones import VisionTransformer
from mmpretrain.models.utils import resize_pos_embed
from mmpretrain.registry import MODELS

from ..growth.subnet import Subnet
from ..utils.errors import UserError
from .elastic import ElasticBackbone
from .timm_names import DEIT_NAMES


@MODELS.register_module()
class ElasticDeiT(ElasticBackbone, VisionTransformer):
    """DeiT (or any ViT of mmpretrain) that runs a subnet of itself.

    At full depth it is mmpretrain's ``VisionTransformer``, with the same
    parameter names, and takes the same checkpoints. The position embedding
    has the size of the full network and is interpolated to the input's grid
    at every forward pass.

    Args:
        *args: As mmpretrain's ``VisionTransformer``.
        drop_path_rate (float): Drop-path rate of the last running layer; it
            rises linearly from 0 over those that run. Defaults to 0.
        channels_last (bool): Whether the patch embedding keeps channels last
            in memory, as tensor cores have it. Defaults to False.
        **kwargs: As mmpretrain's ``VisionTransformer``: ``arch``, such as
            ``'deit-tiny'``, ``'deit-small'``, ``'deit-base'`` or a dict,
            ``img_size`` (the full resolution), ``patch_size`` and others.
            ``out_indices`` must be the last layer and ``frozen_stages`` -1.

    Raises:
        ValueError: For an image size that is not square or that the patch does
            not divide, outputs of inner layers, or frozen stages.
    """

    timm_names = DEIT_NAMES

    def __init__(self,
                 *args,
                 drop_path_rate: float = 0.,
                 channels_last: bool = False,
                 **kwargs) -> None:
        super().__init__(*args, drop_path_rate=drop_path_rate, **kwargs)
        if list(self.out_indices) != [self.num_layers - 1]:
            raise UserError(
                f'out_indices must be -1 (the last layer), but got {self.out_indices}: an inner '
                'layer may be asleep.')
        if self.frozen_stages != -1:
            raise UserError(
                f'frozen_stages must be -1, but got {self.frozen_stages}: ElasticDeiT itself '
                'decides which layers train.')
        height, width = self.img_size
        patch_height, patch_width = self.patch_embed.projection.kernel_size
        if height != width or patch_height != patch_width or height % patch_height:
            raise UserError(
                f'img_size ({self.img_size}) must be square and divisible by a square '
                f'patch_size ({(patch_height, patch_width)}).')
        self.init_elastic(
            drop_path_rate=drop_path_rate,
            full_resolution=height,
            resolution_step=patch_height)
        if channels_last:
            self.patch_embed.to(memory_format=torch.channels_last)

    def init_weights(self) -> None:
        given = self.init_cfg if isinstance(self.init_cfg, list) else [self.init_cfg or {}]
        pretrained = [cfg for cfg in given if cfg.get('type') in ('Pretrained', PretrainedInit)]
        super().init_weights()
        if pretrained and self.init_cfg != dict(pretrained[0], type='Pretrained'):
            initialize(self, pretrained)  # mmpretrain has drawn the positions after it

    @property
    def slot_groups(self) -> Sequence[nn.ModuleList]:
        return (self.layers, )

    def branch_outputs(self, slot: nn.Module) -> Sequence[nn.Module]:
        ffn = slot.ffn
        return slot.attn.proj, ffn.w3 if hasattr(ffn, 'w3') else ffn.layers[-2]

    def flops(self, subnet: Subnet) -> float:
        self.check_subnet(subnet)
        patch = self.resolution_step
        width = self.embed_dims
        patches = (subnet.resolution // patch)**2
        tokens = patches + self.num_extra_tokens
        stem = patches * self.patch_embed.projection.in_channels * patch**2 * width
        projections = tokens * sum(
            module.weight.numel() for module in self.layers[0].modules()
            if isinstance(module, nn.Linear))
        attention = 2 * tokens**2 * width
        return float(stem + subnet.depth * (projections + attention))

    def forward(self, x: torch.Tensor) -> Tuple[torch.Tensor, ...]:
        """Run the slots that are awake, or in a search a part of them.

        Args:
            x (Tensor): Images of shape (B, C, H, W), of any H and W.

        Returns:
            tuple[Tensor]: One output, of shape (B, C) for the class token.
        """
        return self.run_compiled(self._run, x)

    def _run(self, x: torch.Tensor) -> Tuple[torch.Tensor, ...]:
        x, grid = self.patch_embed(x)  # (B, N, C)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = x + resize_pos_embed(
            self.pos_embed,
            self.patch_resolution,
            grid,
            mode=self.interpolate_mode,
            num_extra_tokens=self.num_extra_tokens)
        x = self.pre_norm(self.drop_after_pos(x))
        for slot in self.running_slots[0]:
            x = self.layers[slot](x)
        if self.final_norm:
            x = self.ln1(x)
        return (self._format_output(x, grid), )
