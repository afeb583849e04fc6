# All of CIFAR-10, DeiT-Ti and DeiT-S with patches of 4 at 32 pixels, 100 epochs.
# Needs a GPU with bfloat16.
#
# Command:  python tools/experiments/run.py configs/experiments/cifar10.py
#           --cfg-options data_root=/path/to/folder
# Figures:  not measured
about = 'DeiT-Ti and DeiT-S on CIFAR-10: 50,000 images to train, 10,000 to test, 100 epochs'
base = './_base_/deit-s_cifar10.py'
seeds = [10, 11, 12]


def _hook(scale, search=None):
    return dict(
        num_stages=4,
        initial_scale=dict(depth=scale, resolution=scale),
        regularization=dict(rand_augment=0.5, drop_path=0.),
        resolution_divisor=4,
        search=search)


_search = dict(type='OneShotSearch', epochs=2, eval_batches=20, evals=(1, 4), cost='time')
_growth = {
    'baseline': dict(),
    'prog 0.5': dict(hook=_hook(0.5)),
    'autoprog 0.5': dict(hook=_hook(0.5, _search)),
    'prog 0.4': dict(hook=_hook(0.4)),
    'autoprog 0.4': dict(hook=_hook(0.4, _search)),
}
arms, tables = {}, []
for _net in ('deit-s', 'deit-t'):
    _names = [f'{_net} {_name}' for _name in _growth]
    for _name, _arm in zip(_names, _growth.values()):
        arms[_name] = dict(base=f'./_base_/{_net}_cifar10.py', **_arm)
    tables += [
        dict(name=f'{_net}', arms=_names),
        dict(name=f'{_net}-search', kind='choices', arms=[_names[2], _names[4]]),
        dict(name=f'{_net}-ledger', kind='ledger', arms=_names),
    ]

del _hook, _search, _growth, _net, _names, _name, _arm
