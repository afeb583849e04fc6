# Two to ten minutes a run on a CPU: a narrow DeiT of 12 layers on a fixed tenth of
# CIFAR-10, which is a folder of class folders, train/ and test/.
#
# Command:  python tools/experiments/run.py configs/experiments/cifar10_cpu.py --jobs 2
#           --cfg-options data_root=/path/to/folder
# Figures:  in docs/results.md
about = 'A narrow DeiT on a tenth of CIFAR-10: 5,000 images to train, 10,000 to test, 20 epochs'
base = './_base_/deit-micro_cifar10.py'
# Whatever was chosen was chosen on others.
seeds = [20, 21, 22, 23, 24]

# What growth is in all arms; cifar10_new.py and cifar10_long.py have the same.
_grown = dict(
    hook=dict(
        num_stages=5,
        initial_scale=dict(depth=0.4, resolution=0.4),
        resolution_divisor=4,
        search=None,
        budget='flops'),
    optim_wrapper=dict(growth=dict(type='IdentityInit')))
_full = dict(hook=dict(num_stages=1, search=None, budget='flops'))

# 'growth 3' takes a third of the multiply-adds of 'full', which is the whole recipe, and
# 'full 3' is the full network for as long.
arms = {'full': dict()}
for _name, _arm in (('full', _full), ('growth', _grown)):
    for _speedup in (2, 3, 4.5, 6):
        arms[f'{_name} {_speedup}'] = dict(_arm, hook=dict(_arm['hook'], speedup=_speedup))
# Searches within the same budgets belong here, such as 'search 3'.

tables = [
    dict(name='main', arms=['full', 'growth 2', 'growth 3', 'growth 4.5', 'growth 6']),
    dict(name='rivals', kind='rivals', arms=list(arms)),
    dict(name='equal', kind='equal', arms=list(arms)),
    dict(name='curve', kind='curve', arms=list(arms)),
    dict(name='ledger', kind='ledger', arms=['full', 'full 3', 'growth 3']),
]

del _grown, _full, _name, _arm, _speedup
