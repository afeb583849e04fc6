# CIFAR-10 as class folders, train/ and test/, at up to 32 pixels.
# Set with --cfg-options data_root=/path/to/folder.
_base_ = '../../_base_/datasets/class_folders.py'

image_size = 32
patch_size = 4

train_pipeline = [
    dict(
        type='ProgressiveRandomResizedCrop',
        scale=32,
        crop_ratio_range=(0.35, 1.0),
        interpolation='bilinear'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]

# Images have full size already.
test_pipeline = [dict(type='PackInputs')]

train_dataloader = dict(
    batch_size=128, dataset=dict(in_memory=True, pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=500, dataset=dict(in_memory=True, pipeline=test_pipeline))
test_dataloader = val_dataloader
