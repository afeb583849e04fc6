# DeiT-S on ImageNet in half of the compute that its recipe's 100 epochs take:
# four stages of equal compute. What such a schedule does was measured on small
# data only (docs/results.md).
# EfficientTrain++ (arXiv 2405.08768), whose stages have equal compute, too, claims
# equal top-1 for 2.33 times less of it.
#
# Command:  tools/dist_train.sh configs/budget/deit-s_2x_in1k.py 8
# Time:     not measured
# Top-1:    not measured
_base_ = '../prog/deit-s_prog_in1k.py'

custom_hooks = [
    dict(
        type='AutoProgHook',
        num_stages=4,
        initial_scale=dict(depth=0.5, resolution=0.5),
        regularization=dict(rand_augment=0.5, random_erasing=0., drop_path=0.),
        search=None,
        speedup=2),
    dict(type='MoGrowEMAHook'),
]
