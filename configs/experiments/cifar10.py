# All of CIFAR-10, DeiT-Ti and DeiT-S with patches of 4 at 32 pixels, 100 epochs.
# Needs a GPU with bfloat16.
#
# Command:  python tools/experiments/run.py configs/experiments/cifar10.py
#           --cfg-options data_root=/path/to/folder
# Figures:  not measured
about = 'DeiT-Ti and DeiT-S on CIFAR-10: 50,000 images to train, 10,000 to test, 100 epochs'
base = './_base_/deit-s_cifar10.py'
seeds = [20, 21, 22]

# What growth is in all arms.
_grown = dict(
    hook=dict(
        num_stages=4,
        initial_scale=dict(depth=0.4, resolution=0.4),
        regularization=dict(rand_augment=0.5, drop_path=0.),
        resolution_divisor=4,
        search=None,
        budget='flops'))
_full = dict(hook=dict(num_stages=1, search=None, budget='flops'))

arms, tables = {}, []
for _net in ('deit-s', 'deit-t'):
    _mine = {f'{_net} full': dict()}
    for _name, _arm in (('full', _full), ('growth', _grown)):
        for _speedup in (2, 3, 4.5):
            _mine[f'{_net} {_name} {_speedup}'] = dict(
                _arm, hook=dict(_arm['hook'], speedup=_speedup))
    for _name, _arm in _mine.items():
        arms[_name] = dict(_arm, base=f'./_base_/{_net}_cifar10.py')
    tables += [
        dict(name=_net, arms=[_name for _name in _mine if 'full ' not in _name]),
        dict(name=f'{_net}-rivals', kind='rivals', arms=list(_mine)),
        dict(name=f'{_net}-equal', kind='equal', arms=list(_mine)),
        dict(name=f'{_net}-curve', kind='curve', arms=list(_mine)),
        dict(name=f'{_net}-ledger', kind='ledger', arms=list(_mine)),
    ]

del _grown, _full, _net, _mine, _name, _arm, _speedup
