# 6 slots, 2 outlookers and 4 transformers, for pictures of up to 48 pixels.
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        type='ElasticDataPreprocessor', num_classes=10, mean=[33.3] * 3, std=[78.6] * 3),
    backbone=dict(
        type='ElasticVOLO',
        arch=dict(
            layers=(2, 2, 1, 1),
            embed_dims=(48, 96, 96, 96),
            num_heads=(2, 4, 4, 4),
            stem_hidden_dim=16),
        img_size=48,
        patch_size=4),
    head=dict(
        type='VOLOHead',
        num_classes=10,
        in_channels=96,
        dense_weight=0.5,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')))
