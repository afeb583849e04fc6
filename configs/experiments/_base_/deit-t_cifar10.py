# DeiT-Ti with patches of 4 pixels on CIFAR-10, 100 epochs at batch 512.
_base_ = './deit-s_cifar10.py'

model = dict(backbone=dict(arch='deit-tiny'), head=dict(in_channels=192))
