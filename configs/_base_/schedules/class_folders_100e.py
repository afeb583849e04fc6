# DeiT's recipe for your own images. What is None is filled in when a tool
# starts, so that `--cfg-options train_cfg.max_epochs=30` is all that a shorter
# run needs.
_base_ = './deit_100e.py'

# lr: DeiT's 1e-3 at batch 1024, linearly, but at least 5e-4. Adam needs no
# smaller steps for a small batch, and in few of them it wouldn't get far.
optim_wrapper = dict(optimizer=dict(lr=None))
auto_scale_lr = None  # the learning rate follows the batch already

# Warm-up for a tenth of the epochs, at most 5; then down to the end.
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, end=None, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-5,
        by_epoch=True,
        begin=None,
        end=None,
        convert_to_iter_based=True),
]
