# An hour or two on 2 cores: DeiT-micro on a fixed fifth of CIFAR-10, a folder of
# class folders, train/ and test/.
#
# Command:  python tools/experiments/run.py configs/experiments/cifar10_cpu.py --jobs 2
#           --cfg-options data_root=/path/to/folder
# Figures:  in docs/results.md
about = 'DeiT-micro on a fifth of CIFAR-10: 10,000 images to train, 10,000 to test, 24 epochs'
base = './_base_/deit-micro_cifar10.py'
# The recipe was chosen on seed 100, so it isn't among these.
seeds = [10, 11, 12, 13, 14]


def _hook(scale, search=None):
    return dict(
        num_stages=4,
        initial_scale=dict(depth=scale, resolution=scale),
        resolution_divisor=4,
        search=search)


_search = dict(type='OneShotSearch', epochs=2, eval_batches=4, evals=(1, 1), cost='flops')

arms = {
    'baseline': dict(),
    'autoprog 0.4': dict(hook=_hook(0.4, _search)),
    'prog 0.4': dict(hook=_hook(0.4)),
    'autoprog 0.5': dict(hook=_hook(0.5, _search)),
    'prog 0.5': dict(hook=_hook(0.5)),
}

tables = [
    dict(name='main', arms=['baseline', 'autoprog 0.4', 'prog 0.4', 'autoprog 0.5', 'prog 0.5']),
    dict(name='search', kind='choices', arms=['autoprog 0.4', 'autoprog 0.5']),
    dict(name='search-against-manual', arms=['prog 0.4', 'autoprog 0.4']),
    dict(name='ledger', kind='ledger', arms=['baseline', 'prog 0.4', 'autoprog 0.4']),
    dict(name='ema', kind='weights', arms=['baseline', 'prog 0.4', 'autoprog 0.4']),
]

del _hook, _search
