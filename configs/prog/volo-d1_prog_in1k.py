# VOLO-D1 on ImageNet, grown by the manual schedule ("Prog"): four stages at
# depths 9, 12, 15, 18 and resolutions 128, 160, 192, 224.
#
# Paper:    AutoProg (arXiv 2203.14509)
# Command:  tools/dist_train.sh configs/prog/volo-d1_prog_in1k.py 8
# Time:     not measured
# Top-1:    not measured
_base_ = '../baseline/volo-d1_baseline_in1k.py'

custom_hooks = [
    dict(
        type='AutoProgHook',
        num_stages=4,
        initial_scale=dict(depth=0.5, resolution=0.5),
        regularization=dict(rand_augment=0.5, random_erasing=0., drop_path=0.),
        search=None),
    dict(type='MoGrowEMAHook'),
    dict(type='SyncBuffersHook'),
]
