# Copyright (c) the autoprog_mm authors. All rights reserved.
from typing import List, NamedTuple, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from timm.models.volo import VOLO, Transformer

from ..growth.schedule import round_to
from ..growth.subnet import Subnet
from ..utils.checks import check_int
from ..utils.errors import UserError
from .elastic import ElasticBackbone
from .mix_token import draw_mask
from .timm_names import VOLO_NAMES

# Share of outlookers in a depth, and the multiple that their number is of.
_OUTLOOKER_SHARE = 0.23
_OUTLOOKER_DIVISOR = 2
# timm's VOLO halves the grid of patches after the outlookers.
_POOLING = 2


class VOLOFeatures(NamedTuple):
    """What :class:`ElasticVOLO` gives to :class:`VOLOHead`.

    Args:
        class_token (Tensor): Of shape (B, C).
        tokens (Tensor): Of shape (B, h, w, C), each at the place and in the
            sample that it belongs to: MixToken is undone.
        own_share (float | None): Share of its own image in each class token, 1
            without MixToken. The rest is of the sample at the same place in
            the flipped batch. None in a trace, whose outputs are tensors.
    """

    class_token: torch.Tensor
    tokens: torch.Tensor
    own_share: Optional[float]


@MODELS.register_module()
class ElasticVOLO(ElasticBackbone, VOLO, BaseModule):
    """VOLO that runs a subnet of itself, on timm's ``VOLO``.

    At full depth it is timm's network, with the same parameter names. It has
    two groups of slots: outlookers, and transformers (all of ``network[2]``
    and later, in forward order); of a depth l, ``0.23 * l`` are outlookers,
    rounded to a multiple of 2. The position embedding has the size of the full
    network and is interpolated (bicubic) to the input's grid at every forward
    pass. Outlookers have no drop path, as in timm. Of timm's other methods
    none knows of subnets.

    Source: Yuan et al., "VOLO: Vision Outlooker for Visual Recognition",
    arXiv 2106.13112.

    Args:
        arch (str | dict): ``'d1'`` to ``'d5'``, or a dict with ``layers``,
            ``embed_dims`` and ``num_heads`` (one number for outlookers and one
            for each part of the transformers, all of these alike) and
            optionally ``mlp_ratio`` (defaults to 3) and ``stem_hidden_dim``
            (defaults to 64). Defaults to ``'d1'``.
        img_size (int): Input size of the full network, in pixels, a multiple
            of ``2 * patch_size``. Defaults to 224.
        patch_size (int): 4, 8 or 16 pixels; the transformers' tokens are twice
            as wide. Defaults to 8.
        in_channels (int): Channels of the input. Defaults to 3.
        mix_token (bool): In training, mix the patches of each image and the
            one at the same place in the flipped batch (MixToken, section 3.2
            of arXiv 2104.10858). Defaults to True.
        drop_path_rate (float): Drop-path rate of the last running transformer;
            it rises linearly from 0 over all running slots. Defaults to 0.
        pos_drop_rate (float): Dropout after the position embedding.
            Defaults to 0.
        attn_drop_rate (float): Dropout of attention weights. Defaults to 0.
        qkv_bias (bool): Whether queries, keys and values have a bias.
            Defaults to False.
        channels_last (bool): Whether the stem keeps channels last in memory,
            as tensor cores have it. Defaults to False.
        init_cfg (dict, optional): Initialisation after timm's.

    Raises:
        ValueError: For an unknown ``arch``, one whose depth is not split as
            above, or an ``img_size`` that the patches don't divide.
    """

    timm_names = VOLO_NAMES
    _D3 = dict(layers=(8, 8, 16, 4), embed_dims=(256, 512, 512, 512), num_heads=(8, 16, 16, 16))
    arch_zoo = {
        'd1': dict(
            layers=(4, 4, 8, 2), embed_dims=(192, 384, 384, 384), num_heads=(6, 12, 12, 12)),
        'd2': dict(
            layers=(6, 4, 10, 4), embed_dims=(256, 512, 512, 512), num_heads=(8, 16, 16, 16)),
        'd3': _D3,
        'd4': dict(_D3, embed_dims=(384, 768, 768, 768), num_heads=(12, 16, 16, 16)),
        'd5': dict(
            layers=(12, 12, 20, 4),
            embed_dims=(384, 768, 768, 768),
            num_heads=(12, 16, 16, 16),
            mlp_ratio=4.,
            stem_hidden_dim=128),
    }

    def __init__(self,
                 arch: Union[str, dict] = 'd1',
                 img_size: int = 224,
                 patch_size: int = 8,
                 in_channels: int = 3,
                 mix_token: bool = True,
                 drop_path_rate: float = 0.,
                 pos_drop_rate: float = 0.,
                 attn_drop_rate: float = 0.,
                 qkv_bias: bool = False,
                 channels_last: bool = False,
                 init_cfg: Union[dict, List[dict], None] = None) -> None:
        settings = self._settings(arch)
        if patch_size not in (4, 8, 16):
            raise UserError(f'patch_size of ElasticVOLO must be 4, 8 or 16, but got {patch_size}.')
        check_int('img_size of ElasticVOLO', img_size)
        if img_size % (_POOLING * patch_size):
            raise UserError(
                f'img_size of ElasticVOLO ({img_size}) must be divisible by '
                f'{_POOLING * patch_size}, twice its patch_size.')
        num_parts = len(settings['layers'])
        # timm's constructor goes on to BaseModule's, which can't get its
        # argument through it.
        super().__init__(
            img_size=img_size,
            patch_size=patch_size,
            in_chans=in_channels,
            num_classes=0,
            pooling_scale=_POOLING,
            downsamples=(True, ) + (False, ) * (num_parts - 1),
            outlook_attention=(True, ) + (False, ) * (num_parts - 1),
            pos_drop_rate=pos_drop_rate,
            attn_drop_rate=attn_drop_rate,
            qkv_bias=qkv_bias,
            **settings)
        self.init_cfg = init_cfg
        self.mix_token = mix_token
        # timm builds drop path only where its rate isn't 0.
        for part in self.network:
            for slot in part.modules():
                if isinstance(slot, Transformer):
                    slot.drop_path1, slot.drop_path2 = DropPath(0.), DropPath(0.)
        self.init_elastic(
            drop_path_rate=drop_path_rate,
            full_resolution=img_size,
            resolution_step=_POOLING * patch_size)
        if channels_last:
            self.patch_embed.to(memory_format=torch.channels_last)

    @classmethod
    def _settings(cls, arch: Union[str, dict]) -> dict:
        if isinstance(arch, str):
            if arch.lower() not in cls.arch_zoo:
                raise UserError(
                    f'arch of ElasticVOLO must be one of {sorted(cls.arch_zoo)} or a dict, but '
                    f'got {arch!r}.')
            return cls.arch_zoo[arch.lower()]
        required, optional = {'layers', 'embed_dims', 'num_heads'}, {'mlp_ratio', 'stem_hidden_dim'}
        if not required <= set(arch) <= required | optional:
            raise UserError(
                f'arch of ElasticVOLO must have {sorted(required)} and may have '
                f'{sorted(optional)}, but got {sorted(arch)}.')
        lengths = {len(arch[name]) for name in required}
        if len(lengths) != 1 or min(lengths) < 2 or \
                any(len(set(arch[name][1:])) != 1 for name in ('embed_dims', 'num_heads')):
            raise UserError(
                'layers, embed_dims and num_heads of arch must have one number for the outlookers '
                'and one for each part of the transformers, which must be as wide and have as many '
                f'heads as each other, so that they can grow into each other; but got {arch}.')
        layers = arch['layers']
        outlookers = cls._outlookers(sum(layers))
        if layers[0] != outlookers:
            raise UserError(
                f'layers of arch ({layers}) must have {outlookers} outlookers of {sum(layers)} '
                f'slots ({_OUTLOOKER_SHARE} of them, as a multiple of {_OUTLOOKER_DIVISOR}), but '
                f'has {layers[0]}.')
        return dict(arch)

    @staticmethod
    def _outlookers(depth: int) -> int:
        return round_to(_OUTLOOKER_SHARE * depth, _OUTLOOKER_DIVISOR)

    # ---------------------------------------------------------------- elastic

    @property
    def slot_groups(self) -> Sequence[Sequence[nn.Module]]:
        return (list(self.network[0]), [slot for part in self.network[2:] for slot in part])

    def split_depth(self, depth: int) -> Tuple[int, ...]:
        outlookers = self._outlookers(depth)
        return outlookers, depth - outlookers

    def branch_outputs(self, slot: nn.Module) -> Sequence[nn.Module]:
        return slot.attn.proj, slot.mlp.fc2

    def reset_slot(self, slot: nn.Module) -> None:
        super().reset_slot(slot)
        slot.apply(self._init_weights)

    def flops(self, subnet: Subnet) -> float:
        self.check_subnet(subnet)
        num_outlookers, num_transformers = self.split_depth(subnet.depth)
        halves = (subnet.resolution // 2)**2  # pixels of the stem, which halves the size
        patches = (subnet.resolution * _POOLING // self.resolution_step)**2
        tokens = (subnet.resolution // self.resolution_step)**2
        stem = sum(halves * conv.weight.numel() for conv in self.patch_embed.conv
                   if isinstance(conv, nn.Conv2d))
        stem += patches * self.patch_embed.proj.weight.numel()

        outlooker = self.network[0][0]
        attention = outlooker.attn
        window = attention.kernel_size**2
        outlook = patches * sum(
            linear.weight.numel()
            for linear in (attention.v, attention.proj, outlooker.mlp.fc1, outlooker.mlp.fc2))
        outlook += tokens * (attention.attn.weight.numel() + window**2 * attention.v.in_features)

        downsample = tokens * self.network[1].proj.weight.numel()
        transformer = tokens * _linear_weights(self.slot_groups[1][0]) + \
            2 * tokens**2 * self.num_features
        # Keys and values of all tokens, the rest of the class token alone.
        last = sum(
            (1 + tokens) * (block.attn.kv.weight.numel() + 2 * self.num_features) +
            _linear_weights(block) - block.attn.kv.weight.numel() for block in self.post_network)
        return float(stem + num_outlookers * outlook + downsample +
                     num_transformers * transformer + last)

    # ---------------------------------------------------------------- forward

    def forward(self, x: torch.Tensor) -> Tuple[VOLOFeatures]:
        """Run the slots that are awake, or in a search a part of them.

        Args:
            x (Tensor): Images of shape (B, C, H, W), H and W multiples of
                twice the patch size.

        Returns:
            tuple[VOLOFeatures]: One output, of the last slot.
        """
        own_share, mixed = 1., None
        if self.training and self.mix_token:
            # Drawn here, for a compiled graph can't draw from NumPy.
            own_share, mixed = draw_mask(*(size // self.resolution_step for size in x.shape[-2:]))
            mixed = mixed.to(x.device, non_blocking=True)
        class_token, tokens = self.run_compiled(self._run, x, mixed)
        if torch.jit.is_tracing():  # as tools do that count FLOPs
            own_share = None
        return (VOLOFeatures(class_token, tokens, own_share), )

    def _run(self, x: torch.Tensor,
             mixed: Optional[torch.Tensor]) -> Tuple[torch.Tensor, torch.Tensor]:
        outlookers, transformers = self.slot_groups
        running_outlookers, running_transformers = self.running_slots
        x = self.patch_embed(x).permute(0, 2, 3, 1)  # (B, H, W, C)
        if mixed is not None:
            patches = mixed.repeat_interleave(_POOLING, 1).repeat_interleave(_POOLING, 2)
            x = torch.where(patches, x.flip(0), x)
        for slot in running_outlookers:
            x = outlookers[slot](x)
        x = self.network[1](x)  # (B, h, w, C)
        x = self.pos_drop(x + self._positions(x.shape[1:3]))
        for slot in running_transformers:
            x = transformers[slot](x)
        grid = x.shape[1:3]
        x = self.norm(self.forward_cls(x.flatten(1, 2)))  # (B, 1 + h * w, C)
        tokens = x[:, 1:].unflatten(1, grid)
        if mixed is not None:
            tokens = torch.where(mixed, tokens.flip(0), tokens)
        return x[:, 0], tokens

    def _positions(self, grid: Sequence[int]) -> torch.Tensor:
        if tuple(grid) == tuple(self.pos_embed.shape[1:3]):
            return self.pos_embed
        return F.interpolate(
            self.pos_embed.permute(0, 3, 1, 2), size=tuple(grid), mode='bicubic',
            align_corners=False).permute(0, 2, 3, 1)


def _linear_weights(module: nn.Module) -> int:
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Linear))
