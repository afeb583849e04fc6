# The digits at up to 48 pixels, for networks with tokens of 8 pixels.
_base_ = './mnist5k_progressive.py'

train_pipeline = [
    dict(
        type='ProgressiveRandomResizedCrop',
        scale=48,
        crop_ratio_range=(0.6, 1.0),
        aspect_ratio_range=(0.8, 1.25),
        interpolation='bilinear'),
    dict(type='PackInputs'),
]

test_pipeline = [
    dict(type='Resize', scale=(48, 48), interpolation='bilinear'),
    dict(type='PackInputs'),
]

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
