# VOLO-D1 on ImageNet with AutoProg and token labels: 100 epochs, initial scale
# 0.4.
#
# Paper:    AutoProg (arXiv 2203.14509), All Tokens Matter (arXiv 2104.10858)
# Command:  tools/dist_train.sh configs/autoprog/volo-d1_0.4_tokenlabel_in1k.py 8
# Time:     not measured
# Top-1:    not measured
_base_ = './volo-d1_tokenlabel_in1k.py'

custom_hooks = [
    dict(
        type='AutoProgHook',
        num_stages=4,
        initial_scale=dict(depth=0.4, resolution=0.4),
        regularization=dict(rand_augment=0.5, random_erasing=0., drop_path=0.),
        search=dict(type='OneShotSearch', epochs=2, eval_batches=50, evals=(1, 4), cost='time')),
    dict(type='MoGrowEMAHook'),
    dict(type='SyncBuffersHook'),
]
