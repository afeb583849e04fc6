_base_ = [
    '../_base_/models/deit-micro.py',
    '../_base_/datasets/mnist5k_progressive.py',
    '../_base_/schedules/micro_28e.py',
    '../_base_/default_runtime.py',
]

custom_hooks = [
    dict(type='AutoProgHook', num_stages=1),
    dict(type='MoGrowEMAHook'),
]
