# How to grow: what cifar10_cpu.py's settings are chosen by, on CIFAR-10's train/ alone.
# Of each class 500 images train and 500 others validate. Five to ten minutes a run on a CPU.
#
# Command:  cp -r /path/to/folder/train /path/to/tuning
#           python tools/experiments/run.py configs/experiments/cifar10_tuning.py --jobs 2
#           --cfg-options data_root=/path/to/tuning
# Figures:  not measured
about = 'A narrow DeiT on CIFAR-10, 20 epochs of 5,000 images of its training set, ' \
    '5,000 others of that to validate'
base = './_base_/deit-micro_cifar10.py'
seeds = [100, 101]

_full = dict(num_stages=1, search=None, budget='flops')
arms = {'full': dict(), 'full 4.5': dict(hook=dict(_full, speedup=4.5))}
_all = []
# All of operator, number of stages and scale, at one budget; the optimizer's state is kept
# in one half of these and reset in the other, each with as many of any other setting.
for _i, _operator in enumerate(['MoGrow', 'IdentityInit']):
    for _j, _stages in enumerate([2, 4, 8]):
        for _k, _scale in enumerate([0.5, 0.4]):
            _state = ['keep', 'reset'][(_i + _j + _k) % 2]
            _all.append(f'{_operator} {_stages} {_scale} {_state}')
            arms[_all[-1]] = dict(
                hook=dict(
                    num_stages=_stages,
                    initial_scale=dict(depth=_scale, resolution=_scale),
                    resolution_divisor=4,
                    speedup=4.5,
                    search=None,
                    budget='flops'),
                optim_wrapper=dict(growth=dict(type=_operator), optimizer_state=_state))

tables = [
    dict(name='settings', kind='effects', arms=_all),
    dict(name='main', arms=['full', 'full 4.5', *_all]),
]

del _full, _all, _i, _operator, _j, _stages, _k, _scale, _state
