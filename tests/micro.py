# Copyright (c) the autoprog_mm authors. All rights reserved.
"""A complete run that takes seconds, for tests of how parts work together."""
import json
import time
from itertools import count
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

_numbers = count()

# At scales of 0.5, patch 8 and divisor 8, worked out by hand:
# depths 2, 2.67, 3.33, 4 and resolutions 16, 21.3, 26.7, 32.
STAGES = [(0, 2, 2, 16), (2, 4, 3, 24), (4, 6, 3, 24), (6, 8, 4, 32)]
STEPS = 6  # of an epoch


def micro_config(data_root, work_dir, search=None, workers=0, **options) -> Config:
    """Eight epochs of a 4-layer ViT on 48 JPEG files.

    Args:
        data_root (Path): From the fixture ``jpeg_root``.
        work_dir (Path): Work directory.
        search (dict | None): Search of the hook.
        workers (int): Worker processes of each loader, for tests that are about them.
        **options: Set in the config, '__' in a key standing for a dot.
    """
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='ProgressiveRandomResizedCrop', scale=32),
        dict(type='RandomFlip', prob=0.5, direction='horizontal'),
        dict(
            type='ProgressiveRandAugment',
            policies='timm_increasing',
            num_policies=2,
            magnitude_level=9,
            magnitude_std=0.5),
        dict(type='ProgressiveRandomErasing', erase_prob=0.25, mode='rand'),
        dict(type='PackInputs'),
    ]

    def loader(split, pipeline, shuffle):
        return dict(
            batch_size=8,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=dict(type='default_collate'),
            dataset=dict(
                type='ImageNet', data_root=str(data_root), split=split, pipeline=pipeline),
            sampler=dict(type='DefaultSampler', shuffle=shuffle))

    cfg = Config(
        dict(
            default_scope='mmpretrain',
            experiment_name=f'micro_{next(_numbers)}_{time.time_ns()}',
            work_dir=str(work_dir),
            model=dict(
                type='ImageClassifier',
                data_preprocessor=dict(
                    type='ElasticDataPreprocessor',
                    num_classes=4,
                    mean=[110.] * 3,
                    std=[60.] * 3,
                    to_rgb=True),
                backbone=dict(
                    type='ElasticDeiT',
                    arch=dict(
                        embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=32),
                    img_size=32,
                    patch_size=8,
                    drop_path_rate=0.1),
                head=dict(
                    type='VisionTransformerClsHead',
                    num_classes=4,
                    in_channels=16,
                    loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')),
                init_cfg=[
                    dict(type='TruncNormal', layer='Linear', std=.02),
                    dict(type='Constant', layer='LayerNorm', val=1., bias=0.),
                ],
                train_cfg=dict(augments=[
                    dict(type='Mixup', alpha=0.8),
                    dict(type='CutMix', alpha=1.0),
                ])),
            train_dataloader=loader('train', pipeline, True),
            val_dataloader=loader(
                'val',
                [dict(type='LoadImageFromFile'),
                 dict(type='Resize', scale=(32, 32)),
                 dict(type='PackInputs')], False),
            val_evaluator=dict(type='Accuracy', topk=(1, )),
            optim_wrapper=dict(
                type='MoGrowOptimWrapper',
                ema_decays=(0.8, 0.9),
                optimizer=dict(type='AdamW', lr=3e-3, weight_decay=0.05),
                paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0.),
                clip_grad=dict(max_norm=5.)),
            param_scheduler=[
                dict(type='LinearLR', start_factor=0.1, end=1, convert_to_iter_based=True),
                dict(
                    type='CosineAnnealingLR',
                    begin=1,
                    end=8,
                    eta_min=1e-5,
                    convert_to_iter_based=True),
            ],
            train_cfg=dict(type='ResumableTrainLoop', max_epochs=8, val_interval=1),
            val_cfg=dict(),
            default_hooks=dict(
                logger=dict(type='LoggerHook', interval=2),
                checkpoint=dict(type='SafeCheckpointHook', interval=1, max_keep_ckpts=-1),
                guard=dict(type='RunGuardHook')),
            custom_hooks=[
                dict(
                    type='AutoProgHook',
                    num_stages=4,
                    initial_scale=dict(depth=0.5, resolution=0.5),
                    resolution_divisor=8,
                    search=search),
                dict(type='MoGrowEMAHook'),
            ],
            env_cfg=dict(mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0)),
            randomness=dict(seed=7)))
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in options.items()})
    return cfg


def volo_options(label_root=None) -> dict:
    """Options that make a micro config one of a VOLO with 2 + 4 slots.

    Args:
        label_root (Path, optional): Folder of label maps to train with.
    """
    preprocessor = dict(type='ElasticDataPreprocessor', num_classes=4, mean=[110.] * 3,
                        std=[60.] * 3, to_rgb=True)
    options = dict(
        model__backbone=dict(
            _delete_=True,
            type='ElasticVOLO',
            arch=dict(
                layers=(2, 2, 1, 1),
                embed_dims=(8, 16, 16, 16),
                num_heads=(1, 2, 2, 2),
                stem_hidden_dim=4),
            img_size=32,
            patch_size=4,
            drop_path_rate=0.1),
        model__head=dict(
            _delete_=True,
            type='VOLOHead',
            num_classes=4,
            in_channels=16,
            loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')))
    if label_root is not None:
        preprocessor.update(type='TokenLabelDataPreprocessor', token_size=8)
        options['model__head']['class_target'] = 'token_label'
        options['train_dataloader__dataset__pipeline'] = [
            dict(type='LoadImageFromFile'),
            dict(type='ProgressiveRandomResizedCrop', scale=32),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='LoadTokenLabel', label_root=str(label_root), num_classes=4),
            dict(type='PackInputs', algorithm_keys=('token_label', 'token_label_box')),
        ]
    return dict(options, model__data_preprocessor=preprocessor)


def write_label_maps(image_root: Path, label_root: Path, num_classes: int) -> Path:
    """Write a label map for each image to train with; its class is that of its folder."""
    for path in sorted(Path(image_root, 'train').rglob('*.jpg')):
        label = int(path.parent.name.split('_')[-1])
        classes = (torch.arange(3) + label) % num_classes
        scores = torch.tensor([5., 2., 1.])
        cells = torch.stack([scores, classes.float()])[..., None, None].expand(2, 3, 5, 4)
        (label_root / path.parent.name).mkdir(parents=True, exist_ok=True)
        torch.save(cells.half().contiguous(), label_root / path.parent.name / f'{path.stem}.pt')
    return label_root


def run(cfg: Config, *hooks: Hook) -> Runner:
    """Train, with further hooks if there are any."""
    runner = Runner.from_cfg(cfg)
    for hook in hooks:
        runner.register_hook(hook, 'LOWEST')
    try:
        runner.train()
    finally:
        close(runner)
    return runner


def close(runner: Runner) -> None:
    """End the workers; the garbage collector would wait for each, 5 s long."""
    for loop in (runner._train_loop, runner._val_loop, runner._test_loop):
        iterator = getattr(getattr(loop, 'dataloader', None), '_iterator', None)
        if iterator is not None:
            iterator._shutdown_workers()


def resume(cfg: Config, checkpoint=None) -> Runner:
    """Go on from a checkpoint, or from the latest in the work directory."""
    cfg = cfg.copy()
    cfg.experiment_name = f'micro_{next(_numbers)}_{time.time_ns()}'
    cfg.resume = True
    cfg.load_from = None if checkpoint is None else str(checkpoint)
    return run(cfg)


def load(path) -> dict:
    """Load a checkpoint as anybody may: no code runs, nothing is allow-listed."""
    allowed = torch.serialization.get_safe_globals()  # some of torch's own parts add to it
    torch.serialization.clear_safe_globals()
    try:
        return torch.load(path, weights_only=True)
    finally:
        torch.serialization.add_safe_globals(allowed)


def read_record(work_dir) -> dict:
    return json.loads(Path(work_dir, 'autoprog.json').read_text())


def differences(a, b, path='') -> list:
    """Where two trees of plain values and tensors differ, bit for bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [path]
    if type(a) is not type(b):
        return [f'{path}: {type(a).__name__}/{type(b).__name__}']
    if isinstance(a, dict):
        keys = [f'{path}.{key}' for key in a.keys() ^ b.keys()]
        return keys + [d for key in a.keys() & b.keys()
                       for d in differences(a[key], b[key], f'{path}.{key}')]
    if isinstance(a, (list, tuple)):
        if len(a) != len(b):
            return [f'{path}: {len(a)}/{len(b)} items']
        return [d for i, (x, y) in enumerate(zip(a, b)) for d in differences(x, y, f'{path}[{i}]')]
    return [] if a == b else [f'{path}: {a}/{b}']


def differing(one, other, place='') -> list:
    """Places at which two trees of dicts and lists differ, such as ``'a.0.b'``."""
    if isinstance(one, dict) and isinstance(other, dict):
        pairs = {key: (one.get(key), other.get(key)) for key in sorted({*one, *other})}
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = dict(enumerate(zip(one, other)))
    else:
        return [] if one == other else [place]
    return [found for key, pair in pairs.items()
            for found in differing(*pair, f'{place}.{key}' if place else str(key))]
