# VOLO's recipe at batch 1024: DeiT's, but for the learning rate. Its "100
# epochs" are 110: 20 of warm-up, a cosine that ends after 100, and 10 more at
# the least rate. Stages of AutoProgHook divide the 100; the last one has the
# cool-down, too.
_base_ = './deit_100e.py'

optim_wrapper = dict(optimizer=dict(lr=1.6e-3))

param_scheduler = [
    dict(  # from 1e-6
        type='LinearLR',
        start_factor=6.25e-4,
        by_epoch=True,
        end=20,
        convert_to_iter_based=True),
    dict(  # half of a cosine over 100 epochs, of which the warm-up takes 20
        type='CycleCosineLR',
        eta_min=1e-5,
        by_epoch=True,
        begin=20,
        end=110,
        cooldown=10,
        convert_to_iter_based=True),
]

train_cfg = dict(max_epochs=110)
