# A network for a CPU, as deep as DeiT's but 64 wide: 20 epochs of 5,000 images.
_base_ = [
    './cifar10.py',
    '../../_base_/schedules/micro_24e.py',
    '../../_base_/default_runtime.py',
]

model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        type='ElasticDataPreprocessor',
        num_classes=10,
        mean=[125.3, 123.0, 113.9],
        std=[63.0, 62.1, 66.7],
        to_rgb=True),
    backbone=dict(
        type='ElasticDeiT',
        arch=dict(embed_dims=64, num_layers=12, num_heads=4, feedforward_channels=256),
        img_size=32,
        patch_size=4),
    head=dict(
        type='VisionTransformerClsHead',
        num_classes=10,
        in_channels=64,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')),
    init_cfg=[
        dict(type='Xavier', layer='Linear', distribution='uniform'),
        dict(type='Constant', layer='LayerNorm', val=1., bias=0.),
    ])

# A fixed tenth of the images, which are made in the process that trains.
train_dataloader = dict(batch_size=32, num_workers=0, dataset=dict(max_per_class=500))
val_dataloader = dict(num_workers=0)

optim_wrapper = dict(ema_decays=(0.98, 0.995))

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=True, end=2, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=2e-5,
        by_epoch=True,
        begin=2,
        end=20,
        convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=20, val_interval=20)

custom_hooks = [
    dict(type='AutoProgHook', num_stages=1),
    dict(type='MoGrowEMAHook'),
]
