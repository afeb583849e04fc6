# DeiT-S on ImageNet with AutoProg: 300 epochs, initial scale 0.5.
#
# Paper:    AutoProg (arXiv 2203.14509)
# Command:  tools/dist_train.sh configs/autoprog/deit-s_300e_in1k.py 8
# Time:     not measured
# Top-1:    not measured
_base_ = './deit-s_in1k.py'

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, end=5, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-5,
        by_epoch=True,
        begin=5,
        end=300,
        convert_to_iter_based=True),
]

train_cfg = dict(max_epochs=300)
