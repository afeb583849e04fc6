# VOLO-D1 on ImageNet with token labels, without growth: the baseline of
# ../autoprog/volo-d1_tokenlabel_in1k.py. It needs label maps, see
# ../_base_/datasets/in1k_progressive_volo_tokenlabel.py.
#
# Recipe:   VOLO (arXiv 2106.13112) with token labels (arXiv 2104.10858), 100
#           epochs and 10 of cool-down at batch 1024, on 8 GPUs
# Command:  tools/dist_train.sh configs/baseline/volo-d1_baseline_tokenlabel_in1k.py 8
# Time:     not measured
# Top-1:    not measured
_base_ = [
    '../_base_/models/volo-d1_tokenlabel.py',
    '../_base_/datasets/in1k_progressive_volo_tokenlabel.py',
    '../_base_/schedules/volo_100e.py',
    '../_base_/default_runtime.py',
]

custom_hooks = [
    dict(type='AutoProgHook', num_stages=1),
    dict(type='MoGrowEMAHook'),
    # BatchNorm in the stem: ranks average their statistics after each epoch.
    dict(type='SyncBuffersHook'),
]
