# The baseline of `make demo`: DeiT-micro on 5,000 MNIST digits, without growth.
#
# Command:  python tools/train.py configs/baseline/deit-micro_baseline_mnist5k.py
# Figures:  in docs/results.md, for 2 CPU cores
_base_ = [
    '../_base_/models/deit-micro.py',
    '../_base_/datasets/mnist5k_progressive.py',
    '../_base_/schedules/micro_24e.py',
    '../_base_/default_runtime.py',
]

custom_hooks = [
    dict(type='AutoProgHook', num_stages=1),
    dict(type='MoGrowEMAHook'),
]
