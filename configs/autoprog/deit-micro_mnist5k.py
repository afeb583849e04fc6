_base_ = '../baseline/deit-micro_baseline_mnist5k.py'

custom_hooks = [
    dict(
        type='AutoProgHook',
        num_stages=4,
        initial_scale=dict(depth=0.5, resolution=0.5),
        resolution_divisor=8,
        # By multiply-adds, a seed gives the same decisions in every run.
        search=dict(type='OneShotSearch', epochs=2, eval_batches=4, evals=(1, 2), cost='flops')),
    dict(type='MoGrowEMAHook'),
]
