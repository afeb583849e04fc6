model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        type='ElasticDataPreprocessor',
        num_classes=1000,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True),
    backbone=dict(
        type='ElasticVOLO', arch='d1', img_size=224, drop_path_rate=0.1, channels_last=True),
    head=dict(
        type='VOLOHead',
        num_classes=1000,
        in_channels=384,
        dense_weight=0.5,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')))

# The stem's statistics are of all GPUs' images; for distributed runs only.
sync_bn = 'torch'
