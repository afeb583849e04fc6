# VOLO-D1 on ImageNet with AutoProg and token labels: 100 epochs, initial scale
# 0.5. It needs the label maps of the TokenLabeling release in
# data/imagenet_token_labels/<class folder>/<image>.pt, or your own:
#
#   python tools/token_label/generate.py data/imagenet/train \
#       data/imagenet_token_labels --teacher timm:dm_nfnet_f6 --pretrained
#
# Paper:    AutoProg (arXiv 2203.14509), All Tokens Matter (arXiv 2104.10858)
# Command:  tools/dist_train.sh configs/autoprog/volo-d1_tokenlabel_in1k.py 8
# Time:     not measured
# Top-1:    not measured
_base_ = './volo-d1_in1k.py'

model = dict(
    data_preprocessor=dict(type='TokenLabelDataPreprocessor', token_size=16),
    head=dict(class_target='token_label'))

train_pipeline = [
    dict(
        type='ProgressiveDecodeCrop',
        scale=224,
        backend='pillow',
        interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(
        type='ProgressiveRandAugment',
        policies='timm_increasing',
        num_policies=2,
        total_level=10,
        magnitude_level=9,
        magnitude_std=0.5,
        hparams=dict(pad_val=[104, 116, 124], interpolation='bicubic')),
    dict(
        type='ProgressiveRandomErasing',
        erase_prob=0.25,
        mode='rand',
        min_area_ratio=0.02,
        max_area_ratio=1 / 3,
        fill_color=[103.53, 116.28, 123.675],
        fill_std=[57.375, 57.12, 58.395]),
    dict(type='LoadTokenLabel', label_root='data/imagenet_token_labels', num_classes=1000),
    dict(type='PackInputs', algorithm_keys=('token_label', 'token_label_box')),
]

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
