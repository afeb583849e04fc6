# 64 wide and 6 deep, for pictures of up to 32 pixels. A net as narrow as this
# starts from Xavier's larger weights: with 0.02 it stays on a plateau for long.
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        type='ElasticDataPreprocessor', num_classes=10, mean=[33.3] * 3, std=[78.6] * 3),
    backbone=dict(
        type='ElasticDeiT',
        arch=dict(embed_dims=64, num_layers=6, num_heads=4, feedforward_channels=256),
        img_size=32,
        patch_size=4),
    head=dict(
        type='VisionTransformerClsHead',
        num_classes=10,
        in_channels=64,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')),
    init_cfg=[
        dict(type='Xavier', layer='Linear', distribution='uniform'),
        dict(type='Constant', layer='LayerNorm', val=1., bias=0.),
    ])
