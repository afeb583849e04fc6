# Does the gain outlast short runs? Half of CIFAR-10's training images, for 60 epochs: 15
# times as many steps as in cifar10_cpu.py, whose network and growth these are. The images
# are those of train/ that come 2,001st to 4,500th in each class, which no other suite has.
# Half an hour to three hours a run on a CPU core.
#
# Command:  python tools/experiments/run.py configs/experiments/cifar10_long.py --jobs 2
#           --cfg-options data_root=/path/to/folder
# Figures:  not measured
about = 'A narrow DeiT on half of CIFAR-10: 25,000 images to train, 10,000 to test, 60 epochs'
base = './_base_/deit-micro_cifar10.py'
seeds = [20, 21]
options = {
    'train_dataloader.dataset.max_per_class': (2000, 4500),
    'train_cfg.max_epochs': 60,
    'train_cfg.val_interval': 60,
    'param_scheduler.1.end': 60,
}

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
for _speedup in (2, 4):
    arms[f'growth {_speedup}'] = dict(_grown, hook=dict(_grown['hook'], speedup=_speedup))

tables = [
    dict(name='main', arms=list(arms)),
    dict(name='equal', kind='equal', arms=list(arms)),
    dict(name='curve', kind='curve', arms=list(arms)),
]

del _grown, _speedup
