# DeiT-Ti on your own images with AutoProg: a folder of one folder a class, or
# one with train/ and val/. Classes, sizes, batch and learning rate follow it.
#
# Paper:    AutoProg (arXiv 2203.14509)
# Command:  python tools/train.py configs/autoprog/deit-t_custom.py
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
        # Fewer scores than for ImageNet, whose epochs are some 50 times as long. Of 2
        # epochs, or 1, or none, as there are epochs for.
        search=dict(type='OneShotSearch', epochs=None, eval_batches=8, evals=(1, 1), cost='time')),
    dict(type='MoGrowEMAHook'),
]
