# DeiT-S on ImageNet by the same recipe as ../autoprog/deit-s_in1k.py, without
# growth: the baseline to compare it with.
#
# Recipe:   DeiT (arXiv 2012.12877) for 100 epochs at batch 1024, on 8 GPUs
# Command:  tools/dist_train.sh configs/baseline/deit-s_baseline_in1k.py 8
# Time:     not measured
# Top-1:    not measured
_base_ = [
    '../_base_/models/deit-s.py',
    '../_base_/datasets/in1k_progressive.py',
    '../_base_/schedules/deit_100e.py',
    '../_base_/default_runtime.py',
]

custom_hooks = [
    dict(type='AutoProgHook', num_stages=1),
    dict(type='MoGrowEMAHook'),
]
