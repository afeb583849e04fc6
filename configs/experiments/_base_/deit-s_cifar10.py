# DeiT-S with patches of 4 pixels on CIFAR-10, 100 epochs at batch 512.
_base_ = [
    '../../_base_/models/deit-s.py',
    './cifar10.py',
    '../../_base_/schedules/deit_100e.py',
    '../../_base_/default_runtime.py',
]

model = dict(
    data_preprocessor=dict(
        num_classes=10, mean=[125.3, 123.0, 113.9], std=[63.0, 62.1, 66.7]),
    backbone=dict(img_size=32, patch_size=4),
    head=dict(num_classes=10),
    # As for a user's own images: half of the batches stay unmixed.
    train_cfg=dict(
        augments=[dict(type='Mixup', alpha=0.2), dict(type='CutMix', alpha=1.0)],
        probs=[0.25, 0.25]))

train_pipeline = [
    *_base_.train_pipeline[:-1],
    dict(
        type='ProgressiveRandAugment',
        policies='timm_increasing',
        num_policies=2,
        total_level=10,
        magnitude_level=5,
        magnitude_std=0.5,
        hparams=dict(pad_val=[114, 123, 125], interpolation='bilinear')),
    _base_.train_pipeline[-1],
]
train_dataloader = dict(
    batch_size=512, num_workers=14, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(num_workers=2)

# At 97 steps an epoch, the copies average over about one and ten epochs.
optim_wrapper = dict(ema_decays=(0.99, 0.999), clip_grad=dict(max_norm=1.0))
train_cfg = dict(val_interval=100)
default_hooks = dict(checkpoint=dict(interval=10))

custom_hooks = [
    dict(type='AutoProgHook', num_stages=1),
    dict(type='MoGrowEMAHook'),
]
