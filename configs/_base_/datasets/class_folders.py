# Your own images: a folder with train/ and val/, one folder a class in each, or
# just one folder a class. What is None here, and in the parts that a custom
# config takes together, is filled in when a tool starts. Set with --cfg-options:
data_root = None  # the folder
val_share = 0.1  # of each class, held out where there is no val/
image_size = None  # pixels; follows the images
patch_size = None  # pixels; at least 8 patches a side
classes = None  # the class folders

bgr_mean = [103.53, 116.28, 123.675]

# Lighter than DeiT's for ImageNet, which are made for a million images and 300
# epochs: in the few thousand steps that a small folder has, a network doesn't
# get to see through strong ones. So crops show at least a third of an image,
# RandAugment is at 5 of 10, and nothing is erased.
train_pipeline = [
    dict(
        type='ProgressiveDecodeCrop',
        scale=None,
        crop_ratio_range=(0.35, 1.0),
        backend='pillow',
        interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(
        type='ProgressiveRandAugment',
        policies='timm_increasing',
        num_policies=2,
        total_level=10,
        magnitude_level=5,
        magnitude_std=0.5,
        hparams=dict(pad_val=[round(x) for x in bgr_mean], interpolation='bicubic')),
    dict(type='PackInputs'),
]

test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=None, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=None),
    dict(type='PackInputs'),
]

train_dataloader = dict(
    batch_size=None,  # 128, or less for at least 16 steps an epoch
    num_workers=4,
    drop_last=True,
    dataset=dict(type='ClassFolders', data_root=None, split='train', pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True))

val_dataloader = dict(
    batch_size=128,
    num_workers=2,
    dataset=dict(type='ClassFolders', data_root=None, split='val', pipeline=test_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False))
val_evaluator = dict(type='Accuracy', topk=(1, ))  # there may be two classes only

test_dataloader = dict(
    batch_size=128,
    num_workers=2,
    dataset=dict(type='ClassFolders', data_root=None, split='test', pipeline=test_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False))
test_evaluator = val_evaluator
