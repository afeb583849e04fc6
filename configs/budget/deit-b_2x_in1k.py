# DeiT-B on ImageNet in half of the compute that its recipe's 100 epochs take:
# four stages of equal compute. What such a schedule does was measured on small
# data only (docs/results.md).
#
# Command:  tools/dist_train.sh configs/budget/deit-b_2x_in1k.py 8
# Time:     not measured
# Top-1:    not measured
_base_ = './deit-s_2x_in1k.py'

model = dict(backbone=dict(arch='deit-base'), head=dict(in_channels=768))
