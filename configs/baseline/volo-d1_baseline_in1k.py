# VOLO-D1 on ImageNet by the same recipe as ../autoprog/volo-d1_in1k.py, without
# growth: the baseline to compare it with.
#
# Recipe:   VOLO (arXiv 2106.13112), 100 epochs and 10 of cool-down at batch 1024,
#           on 8 GPUs, without token labels
# Command:  tools/dist_train.sh configs/baseline/volo-d1_baseline_in1k.py 8
# Time:     not measured
# Top-1:    not measured
_base_ = [
    '../_base_/models/volo-d1.py',
    '../_base_/datasets/in1k_progressive_volo.py',
    '../_base_/schedules/volo_100e.py',
    '../_base_/default_runtime.py',
]

custom_hooks = [
    dict(type='AutoProgHook', num_stages=1),
    dict(type='MoGrowEMAHook'),
    # BatchNorm in the stem: ranks average their statistics after each epoch.
    dict(type='SyncBuffersHook'),
]
