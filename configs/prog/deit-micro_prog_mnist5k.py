# DeiT-micro on 5,000 MNIST digits, grown by the manual schedule ("Prog"): three
# stages of 8 epochs at depths 3, 5, 6 and resolutions 16, 24, 32.
#
# Paper:    AutoProg (arXiv 2203.14509)
# Command:  python tools/train.py configs/prog/deit-micro_prog_mnist5k.py
# Figures:  not measured
_base_ = '../baseline/deit-micro_baseline_mnist5k.py'

custom_hooks = [
    dict(
        type='AutoProgHook',
        num_stages=3,
        initial_scale=dict(depth=0.5, resolution=0.5),
        resolution_divisor=8,
        search=None),
    dict(type='MoGrowEMAHook'),
]
