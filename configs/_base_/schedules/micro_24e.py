optim_wrapper = dict(
    type='MoGrowOptimWrapper',
    ema_decays=(0.97, 0.99),
    growth=dict(type='MoGrow'),
    optimizer_state='keep',
    constructor='MergedOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1.5e-3, weight_decay=0.05, fused=True),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        flat_decay_mult=0.0,
        custom_keys={
            '.cls_token': dict(decay_mult=0.0),
            # Where a patch lies is to be learnt in a few hundred steps.
            '.pos_embed': dict(decay_mult=0.0, lr_mult=10.)
        }))

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=True, end=2, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=2e-5,
        by_epoch=True,
        begin=2,
        end=24,
        convert_to_iter_based=True),
]

train_cfg = dict(type='ResumableTrainLoop', max_epochs=24, val_interval=2)
val_cfg = dict()
test_cfg = dict()

auto_scale_lr = dict(base_batch_size=32)
