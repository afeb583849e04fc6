# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Small models, checkpoints of them, and their logits."""
from copy import deepcopy

import torch
from mmpretrain.registry import MODELS

WIDTHS = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=40)
PARTS = dict(
    layers=(2, 2, 1, 1), embed_dims=(8, 16, 16, 16), num_heads=(1, 2, 2, 2), stem_hidden_dim=4)


def deit_config(head=None, **options) -> dict:
    backbone = dict(dict(type='ElasticDeiT', arch=WIDTHS, img_size=32, patch_size=8), **options)
    width = backbone['arch']['embed_dims'] if isinstance(backbone['arch'], dict) else \
        {'deit-tiny': 192, 'deit-small': 384, 'deit-base': 768}[backbone['arch']]
    return dict(
        type='ImageClassifier',
        data_preprocessor=dict(
            type='ElasticDataPreprocessor', num_classes=4, mean=[110.] * 3, std=[60.] * 3,
            to_rgb=True),
        backbone=backbone,
        head=dict(dict(type='VisionTransformerClsHead', num_classes=4, in_channels=width),
                  **head or {}))


def volo_config(head=None, **options) -> dict:
    backbone = dict(dict(type='ElasticVOLO', arch=PARTS, img_size=32, patch_size=4), **options)
    width = backbone['arch']['embed_dims'][-1] if isinstance(backbone['arch'], dict) else \
        {'d1': 384, 'd2': 512}[backbone['arch'].lower()]
    return dict(
        type='ImageClassifier',
        backbone=backbone,
        head=dict(dict(type='VOLOHead', num_classes=4, in_channels=width), **head or {}))


def randomize(model) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith('running_var'):
                value.uniform_(.5, 2., generator=generator)
            elif value.dtype.is_floating_point:
                value.normal_(0., .1, generator=generator)
                if value.dim() == 1 and name.endswith('weight'):  # of norms and layer scales
                    value.add_(.7)


def save(path, config, **changes):
    """A checkpoint in the Runner's layout, of a finished run with random weights.

    Returns:
        tuple: The model, and what was saved.
    """
    model = MODELS.build(deepcopy(config)).eval()
    randomize(model)
    full = getattr(model.backbone, 'full_subnet', None)
    content = dict(
        # A text of Python, which nobody runs or reads.
        meta=dict(cfg='1 / 0', epoch=8, dataset_meta=dict(classes=['a', 'b', 'c', 'd'])),
        model_config=dict(model=deepcopy(config)),
        state_dict=model.state_dict(),
        online_state_dict={name: value + 1 for name, value in model.state_dict().items()},
        optimizer=dict(state={0: torch.ones(3)}),
        message_hub=dict(log_scalars={}),
        autoprog=full and dict(schema=1, index=3, searching=False,
                               subnet=(full.depth, full.resolution),
                               stages=[[0, 8, full.depth, full.resolution]]))
    content.update(changes)
    torch.save({k: v for k, v in content.items() if v is not None}, path)
    return model, content


def run_code(lines) -> torch.nn.Module:
    names = {}
    exec('\n'.join(lines), names)
    return names['model'].eval()


def logits(model, size=32, channels=3) -> torch.Tensor:
    count = 1 if size > 100 else 3
    images = torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return model.eval()(images)


def assert_same(ours, theirs, **options):
    expected = logits(ours, **options)
    assert expected.std() > 0.05  # or nothing is compared
    torch.testing.assert_close(logits(theirs, **options), expected, rtol=1e-4, atol=1e-5)
