# DeiT's recipe for your own images. What is None is filled in when a tool
# starts, so that `--cfg-options train_cfg.max_epochs=30` is all that a shorter
# run needs.
optim_wrapper = dict(
    type='AmpMoGrowOptimWrapper',
    dtype='bfloat16',
    ema_decays=(0.998, 0.9996),
    growth=dict(type='MoGrow'),
    optimizer_state='keep',
    constructor='MergedOptimWrapperConstructor',
    # lr: DeiT's 1e-3 at batch 1024, linearly, but at least 5e-4. Adam needs no
    # smaller steps for a small batch, and in few of them it wouldn't get far.
    optimizer=dict(
        type='AdamW', lr=None, weight_decay=0.05, eps=1e-8, betas=(0.9, 0.999), fused=True),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        flat_decay_mult=0.0,
        custom_keys={
            '.cls_token': dict(decay_mult=0.0),
            '.pos_embed': dict(decay_mult=0.0)
        }))

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

train_cfg = dict(type='ResumableTrainLoop', max_epochs=100, val_interval=1)
val_cfg = dict()
test_cfg = dict()
