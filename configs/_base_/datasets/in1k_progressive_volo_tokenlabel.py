# ImageNet as VOLO uses it, with the label maps of the TokenLabeling release in
# data/imagenet_token_labels/<class folder>/<image>.pt, or your own:
#
#   python tools/token_label/generate.py data/imagenet/train \
#       data/imagenet_token_labels --teacher timm:dm_nfnet_f6 --pretrained
_base_ = './in1k_progressive_volo.py'

train_pipeline = [
    *_base_.train_pipeline[:-1],
    dict(type='LoadTokenLabel', label_root='data/imagenet_token_labels', num_classes=1000),
    dict(type='PackInputs', algorithm_keys=('token_label', 'token_label_box')),
]

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
