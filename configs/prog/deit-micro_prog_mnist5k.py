_base_ = '../baseline/deit-micro_baseline_mnist5k.py'

custom_hooks = [
    dict(
        type='AutoProgHook',
        num_stages=4,
        initial_scale=dict(depth=0.5, resolution=0.5),
        resolution_divisor=8,
        search=None),
    dict(type='MoGrowEMAHook'),
]
