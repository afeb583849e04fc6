# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What timm calls our parameters. DeiT's own files have these names, too.

Names are given as patterns of ours, one after the other, and what replaces them.
"""
import re
from typing import Sequence, Tuple

Patterns = Sequence[Tuple[str, str]]

DEIT_NAMES: Patterns = (
    (r'^backbone\.layers\.', 'blocks.'),
    (r'^backbone\.ln1\.', 'norm.'),
    (r'^backbone\.ln2\.', 'fc_norm.'),
    (r'^backbone\.pre_norm\.', 'norm_pre.'),
    (r'^backbone\.patch_embed\.projection\.', 'patch_embed.proj.'),
    (r'^backbone\.', ''),
    (r'^head\.layers\.head\.', 'head.'),
    (r'^(blocks\.\d+)\.ln([12])\.', r'\1.norm\2.'),
    (r'^(blocks\.\d+)\.attn\.gamma1\.weight$', r'\1.ls1.gamma'),
    (r'^(blocks\.\d+)\.ffn\.gamma2\.weight$', r'\1.ls2.gamma'),
    (r'^(blocks\.\d+)\.ffn\.layers\.0\.0\.', r'\1.mlp.fc1.'),
    (r'^(blocks\.\d+)\.ffn\.layers\.1\.', r'\1.mlp.fc2.'),
)
VOLO_NAMES: Patterns = ((r'^backbone\.', ''), (r'^head\.(head|aux_head)\.', r'\1.'))
# Of parameters outside of the backbone.
_HEADS = tuple(f'head.{layer}.{kind}' for layer in ('layers.head', 'head', 'aux_head')
               for kind in ('weight', 'bias'))


def to_timm(name: str, patterns: Patterns) -> str:
    """timm's name of one of our parameters.

    Args:
        name (str): Ours, in the classifier.
        patterns (Patterns): Of the backbone.
    """
    for ours, theirs in patterns:
        name = re.sub(ours, theirs, name)
    return name


def rename_from_timm(weights: dict, backbone: Sequence[str], patterns: Patterns,
                     prefix: str = 'backbone.') -> None:
    """Give timm's weights our names, in place. What has our names already is left as it is.

    Args:
        weights (dict[str, Tensor]): The weights of a classifier.
        backbone (Sequence[str]): Our names of what is in the backbone, in it.
        patterns (Patterns): Of the backbone.
        prefix (str): What our names are to begin with. Defaults to
            ``'backbone.'``, as in a classifier.
    """
    if prefix and any(name.startswith(prefix) for name in weights):
        return
    names = {f'backbone.{name}': prefix + name for name in backbone}
    if prefix:
        names.update(zip(_HEADS, _HEADS))
    for whole, ours in names.items():
        theirs = to_timm(whole, patterns)
        if theirs not in (whole, ours) and theirs in weights and ours not in weights:
            weights[ours] = weights.pop(theirs)
