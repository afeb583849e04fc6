# One to five minutes a run on a CPU: DeiT-micro on 5,000 MNIST digits, the demo's
# recipe.
#
# Command:  python tools/experiments/run.py configs/experiments/mnist5k.py --jobs 2
# Figures:  in docs/results.md
about = 'DeiT-micro on MNIST5k: 3,500 images to train, 1,500 to test, 24 epochs'
base = '../baseline/deit-micro_baseline_mnist5k.py'
# Whatever was chosen was chosen on others.
seeds = [20, 21, 22, 23, 24]
# Only the final weights count. Images are made in the process that trains, since
# a run may have one core only.
options = {'train_cfg.val_interval': 24, 'train_dataloader.num_workers': 0}

# What growth is in all arms.
_grown = dict(
    hook=dict(
        num_stages=4,
        initial_scale=dict(depth=0.5, resolution=0.5),
        resolution_divisor=8,
        search=None,
        budget='flops'),
    optim_wrapper=dict(growth=dict(type='IdentityInit')))
_full = dict(hook=dict(num_stages=1, search=None, budget='flops'))

# 'growth 2' takes half of the multiply-adds of 'full', which is the whole recipe, and
# 'full 2' is the full network for as long.
arms = {'full': dict()}
for _name, _arm in (('full', _full), ('growth', _grown)):
    for _speedup in (2, 3.5):
        arms[f'{_name} {_speedup}'] = dict(_arm, hook=dict(_arm['hook'], speedup=_speedup))
# Searches within the same budgets belong here, such as 'search 2'.

tables = [
    dict(name='main', arms=['full', 'growth 2', 'growth 3.5']),
    dict(name='rivals', kind='rivals', arms=list(arms)),
    dict(name='equal', kind='equal', arms=list(arms)),
    dict(name='curve', kind='curve', arms=list(arms)),
    dict(name='ledger', kind='ledger', arms=['full', 'full 3.5', 'growth 3.5']),
]

del _grown, _full, _name, _arm, _speedup
