# DeiT-B on ImageNet with AutoProg: 100 epochs, initial scale 0.5.
#
# Paper:    AutoProg (arXiv 2203.14509)
# Command:  tools/dist_train.sh configs/autoprog/deit-b_in1k.py 8
# Time:     not measured
# Top-1:    not measured
_base_ = './deit-s_in1k.py'

model = dict(backbone=dict(arch='deit-base'), head=dict(in_channels=768))
