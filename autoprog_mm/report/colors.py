# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Colours by what they mean, so that one picture is readable in light and in dark."""
import re

# In light and in dark.
COLORS = {
    'page': ('#ffffff', '#15181d'),
    'card': ('#f5f6f8', '#1e2229'),
    'ink': ('#1b1f24', '#e6e8eb'),
    'soft': ('#59626d', '#9aa3ae'),
    'line': ('#dfe3e8', '#333a44'),
    'run': ('#1f6fc5', '#5ba6f2'),
    'baseline': ('#8b949e', '#7d8794'),
    'choice': ('#c2410c', '#fb923c'),
    'data': ('#6b46a8', '#b79cf0'),
    'train': ('#1f6fc5', '#5ba6f2'),
    'search': ('#d97706', '#f5a742'),
    'growth': ('#b3265a', '#f0719e'),
    'val': ('#9aa3ad', '#6f7985'),
}
LIGHT = {name: light for name, (light, _) in COLORS.items()}
DARK = {name: dark for name, (_, dark) in COLORS.items()}
# matplotlib knows hex colours only: each CSS variable is drawn as one that stands for it.
STAND_IN = {name: f'#{0x0a0b00 + i:06x}' for i, name in enumerate(COLORS)}
_NAME_OF = {color: name for name, color in STAND_IN.items()}


def with_variables(svg: str) -> str:
    """Put CSS variables in place of the colours that stand for them."""
    return re.sub('|'.join(_NAME_OF), lambda match: f'var(--{_NAME_OF[match[0]]})', svg)
