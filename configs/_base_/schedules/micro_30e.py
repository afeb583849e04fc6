_base_ = './micro_24e.py'

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=True, end=2, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=2e-5,
        by_epoch=True,
        begin=2,
        end=30,
        convert_to_iter_based=True),
]

train_cfg = dict(max_epochs=30)
