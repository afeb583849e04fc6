# Two to ten minutes a run on a CPU: VOLO-micro on 5,000 MNIST digits.
#
# Command:  python tools/experiments/run.py configs/experiments/volo_micro.py --jobs 2
# Figures:  not measured
about = 'VOLO-micro on MNIST5k: 3,500 images to train, 1,500 to test, 30 epochs'
base = '../baseline/volo-micro_baseline_mnist5k.py'
seeds = [20, 21, 22]
# As in mnist5k.py.
options = {'train_cfg.val_interval': 30, 'train_dataloader.num_workers': 0}

# What growth is in all arms.
_grown = dict(
    hook=dict(
        num_stages=3,
        initial_scale=dict(depth=0.5, resolution=0.5),
        resolution_divisor=8,
        search=None,
        budget='flops'),
    optim_wrapper=dict(growth=dict(type='IdentityInit')))
_full = dict(hook=dict(num_stages=1, search=None, budget='flops'))

arms = {'full': dict()}
for _name, _arm in (('full', _full), ('growth', _grown)):
    for _speedup in (2, 3):
        arms[f'{_name} {_speedup}'] = dict(_arm, hook=dict(_arm['hook'], speedup=_speedup))

tables = [
    dict(name='main', arms=['full', 'growth 2', 'growth 3']),
    dict(name='rivals', kind='rivals', arms=list(arms)),
    dict(name='equal', kind='equal', arms=list(arms)),
    dict(name='curve', kind='curve', arms=list(arms)),
]

del _grown, _full, _name, _arm, _speedup
