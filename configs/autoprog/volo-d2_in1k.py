# VOLO-D2 on ImageNet with AutoProg: 100 epochs, initial scale 0.5. Learning
# rate and drop path as VOLO's authors set them for D2.
#
# Paper:    AutoProg (arXiv 2203.14509)
# Command:  tools/dist_train.sh configs/autoprog/volo-d2_in1k.py 8
# Time:     not measured
# Top-1:    not measured
_base_ = './volo-d1_in1k.py'

model = dict(backbone=dict(arch='d2', drop_path_rate=0.2), head=dict(in_channels=512))

optim_wrapper = dict(optimizer=dict(lr=1e-3))

param_scheduler = [  # from 1e-6, too
    dict(_base_.param_scheduler[0], start_factor=1e-3),
    *_base_.param_scheduler[1:],
]
