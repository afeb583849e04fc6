# VOLO-D1 whose targets, also that of the class token, come from label maps.
_base_ = './volo-d1.py'

model = dict(
    data_preprocessor=dict(type='TokenLabelDataPreprocessor', token_size=16),
    head=dict(class_target='token_label'))
