# DeiT-Ti on your own images by the same recipe as ../autoprog/deit-t_custom.py,
# without growth: the baseline to compare it with.
#
# Command:  python tools/train.py configs/baseline/deit-t_baseline_custom.py
#           --cfg-options data_root=/path/to/folder
# Figures:  not measured
_base_ = [
    '../_base_/models/deit-s.py',
    '../_base_/datasets/class_folders.py',
    '../_base_/schedules/class_folders_100e.py',
    '../_base_/default_runtime.py',
]

model = dict(
    data_preprocessor=dict(num_classes=None),
    backbone=dict(arch='deit-tiny', img_size=None, patch_size=None),
    head=dict(num_classes=None, in_channels=192),
    # Lighter than for ImageNet, as the augmentation is: half of the batches stay
    # unmixed, so that each of a few images is seen whole often enough.
    train_cfg=dict(
        augments=[dict(type='Mixup', alpha=0.2), dict(type='CutMix', alpha=1.0)],
        probs=[0.25, 0.25]))

custom_hooks = [
    dict(type='AutoProgHook', num_stages=1),
    dict(type='MoGrowEMAHook'),
]
