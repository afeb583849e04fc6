# VOLO-D1 on ImageNet in half of the compute that its recipe takes:
# four stages of equal compute. What such a schedule does was measured on small
# data only (docs/results.md).
#
# Command:  tools/dist_train.sh configs/budget/volo-d1_2x_in1k.py 8
# Time:     not measured
# Top-1:    not measured
_base_ = '../prog/volo-d1_prog_in1k.py'

custom_hooks = [
    dict(
        type='AutoProgHook',
        num_stages=4,
        initial_scale=dict(depth=0.5, resolution=0.5),
        regularization=dict(rand_augment=0.5, random_erasing=0., drop_path=0.),
        search=None,
        speedup=2),
    dict(type='MoGrowEMAHook'),
    dict(type='SyncBuffersHook'),
]
