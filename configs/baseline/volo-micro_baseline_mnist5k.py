# VOLO-micro on 5,000 MNIST digits, without growth: the baseline of
# ../autoprog/volo-micro_mnist5k.py.
#
# Command:  python tools/train.py configs/baseline/volo-micro_baseline_mnist5k.py
# Figures:  in docs/results.md, for 2 CPU cores
_base_ = [
    '../_base_/models/volo-micro.py',
    '../_base_/datasets/mnist5k_progressive_48.py',
    '../_base_/schedules/micro_30e.py',
    '../_base_/default_runtime.py',
]

custom_hooks = [
    dict(type='AutoProgHook', num_stages=1),
    dict(type='MoGrowEMAHook'),
    dict(type='SyncBuffersHook'),  # BatchNorm, on several processes
]
