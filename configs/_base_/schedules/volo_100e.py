# VOLO's recipe at batch 1024, for 100 epochs.
optim_wrapper = dict(
    type='AmpMoGrowOptimWrapper',
    dtype='bfloat16',
    ema_decays=(0.998, 0.9996),
    growth=dict(type='MoGrow'),
    optimizer_state='keep',
    constructor='MergedOptimWrapperConstructor',
    optimizer=dict(
        type='AdamW', lr=1.6e-3, weight_decay=0.05, eps=1e-8, betas=(0.9, 0.999), fused=True),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        flat_decay_mult=0.0,
        custom_keys={
            '.cls_token': dict(decay_mult=0.0),
            '.pos_embed': dict(decay_mult=0.0)
        }))

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

train_cfg = dict(type='ResumableTrainLoop', max_epochs=100, val_interval=1)
val_cfg = dict()
test_cfg = dict()

# For --auto-scale-lr, with which lr follows the batch size.
auto_scale_lr = dict(base_batch_size=1024)
