# Images that nobody has tuned on: those of CIFAR-10's train/ that come 1,001st to 2,000th
# in each class. cifar10_cpu.py has the first 500, settings were chosen on the first 1,000,
# and cifar10_long.py has the 2,500 after these. Network, recipe and growth are those of
# cifar10_cpu.py. Some 5 to 20 minutes a run on a CPU.
#
# Command:  python tools/experiments/run.py configs/experiments/cifar10_new.py --jobs 2
#           --cfg-options data_root=/path/to/folder
# Figures:  not measured
about = 'A narrow DeiT on CIFAR-10 images that nobody has tuned on: 10,000 to train, ' \
    '10,000 to test, 20 epochs'
base = './_base_/deit-micro_cifar10.py'
seeds = [20, 21, 22]
options = {'train_dataloader.dataset.max_per_class': (1000, 2000)}

# As in cifar10_cpu.py.
_grown = dict(
    hook=dict(
        num_stages=5,
        initial_scale=dict(depth=0.4, resolution=0.4),
        resolution_divisor=4,
        search=None,
        budget='flops'),
    optim_wrapper=dict(growth=dict(type='IdentityInit')))

arms = {'full': dict()}
for _speedup in (2, 3, 4.5):
    arms[f'growth {_speedup}'] = dict(_grown, hook=dict(_grown['hook'], speedup=_speedup))

tables = [
    dict(name='main', arms=list(arms)),
    dict(name='equal', kind='equal', arms=list(arms)),
    dict(name='curve', kind='curve', arms=list(arms)),
]

del _grown, _speedup
