# VOLO-micro on 5,000 MNIST digits, with AutoProg.
#
# Three stages of 10 epochs instead of the paper's four: in a run as short as
# this the full network needs a third of the epochs.
#
# Paper:    AutoProg (arXiv 2203.14509)
# Command:  python tools/train.py configs/autoprog/volo-micro_mnist5k.py
# Figures:  in docs/results.md, for 2 CPU cores
_base_ = '../baseline/volo-micro_baseline_mnist5k.py'

custom_hooks = [
    dict(
        type='AutoProgHook',
        num_stages=3,
        initial_scale=dict(depth=0.5, resolution=0.5),
        resolution_divisor=8,
        # By multiply-adds, a seed gives the same decisions in every run.
        search=dict(type='OneShotSearch', epochs=2, eval_batches=4, evals=(1, 1), cost='flops')),
    dict(type='MoGrowEMAHook'),
    dict(type='SyncBuffersHook'),  # BatchNorm, on several processes
]
