# A network for a CPU, as deep as DeiT's but 64 wide: 20 epochs of 5,000 images.
_base_ = [
    '../../_base_/models/deit-micro.py',
    './cifar10.py',
    '../../_base_/schedules/micro_24e.py',
    '../../_base_/default_runtime.py',
]

model = dict(
    data_preprocessor=dict(mean=[125.3, 123.0, 113.9], std=[63.0, 62.1, 66.7], to_rgb=True),
    backbone=dict(arch=dict(num_layers=12)))

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
