# VOLO's recipe at batch 1024, for 100 epochs: DeiT's, but for the learning rate.
_base_ = './deit_100e.py'

optim_wrapper = dict(optimizer=dict(lr=1.6e-3))

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, end=20, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-5,
        by_epoch=True,
        begin=20,
        end=100,
        convert_to_iter_based=True),
]
