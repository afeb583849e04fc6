# DeiT-Ti on your own images, grown by the manual schedule ("Prog"): four stages
# at depths 6, 8, 10, 12 and half to all of the resolution.
#
# Paper:    AutoProg (arXiv 2203.14509)
# Command:  python tools/train.py configs/prog/deit-t_prog_custom.py
#           --cfg-options data_root=/path/to/folder
# Figures:  not measured
_base_ = '../baseline/deit-t_baseline_custom.py'

custom_hooks = [
    dict(
        type='AutoProgHook',
        num_stages=None,  # 4, or fewer for few epochs
        initial_scale=dict(depth=0.5, resolution=0.5),
        regularization=dict(rand_augment=0.5, drop_path=0.),
        resolution_divisor=None,  # one or two patches
        search=None),
    dict(type='MoGrowEMAHook'),
]
