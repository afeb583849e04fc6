# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Images that can't be read: how a sample tells of them, and what a validation sees instead."""
from typing import Any, List, Optional

import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import Compose

from ..utils.errors import one_line
from .pipelines import leaves_of
from .transforms import ProgressiveDecodeCrop

# Under this name a sample tells which images it stands in for, as a list of
# [path, error], since it comes from a worker process.
BAD_IMAGES = 'bad_images'
_LOADERS = (LoadImageFromFile, ProgressiveDecodeCrop)
_BLACK_SIDE = 64  # pixels


def unread_image(error: Exception) -> Optional[str]:
    """Path of the image that a loading transform was reading, if one was.

    Args:
        error (Exception): One that was caught.
    """
    if isinstance(error, MemoryError):
        return None
    trace = error.__traceback__
    while trace is not None:
        variables = trace.tb_frame.f_locals
        if isinstance(variables.get('self'), _LOADERS) and 'results' in variables:
            return variables['results'].get('img_path')
        trace = trace.tb_next
    return None


def bad_images(batch: dict) -> List[List[str]]:
    """What a batch tells of images that could not be read.

    Args:
        batch (dict): The collated batch.

    Returns:
        list: [path, error] of each.
    """
    samples = batch.get('data_samples') or [] if isinstance(batch, dict) else []
    if samples and isinstance(samples[0], (list, tuple)):  # of test-time augmentation
        samples = [sample for views in samples for sample in views]
    return [image for sample in samples for image in sample.get(BAD_IMAGES, [])]


class BlackIfUnread(Compose):
    """A pipeline that goes on with a black image where one can't be read.

    A validation cannot take another sample, as training does: its samples are
    counted. The ``data_samples`` tell of the image.

    Args:
        pipeline (Compose): The pipeline; its transforms are used.
    """

    def __init__(self, pipeline: Compose) -> None:
        self.transforms = pipeline.transforms

    def __call__(self, data: dict) -> Optional[dict]:
        """See the parent."""
        bad = []
        for transform in self.transforms:
            try:
                data = transform(data)
            except Exception as error:
                path = unread_image(error)
                if path is None or not isinstance(transform, _LOADERS):
                    raise
                bad.append([path, one_line(error)])
                shape = _BLACK_SIDE, _BLACK_SIDE
                data.update(img=np.zeros((*shape, 3), np.uint8), img_shape=shape, ori_shape=shape)
            if data is None:
                return None
        if bad:
            samples = data['data_samples']
            (samples[0] if isinstance(samples, list) else samples).set_metainfo({BAD_IMAGES: bad})
        return data


def see_black_if_unread(dataset: Any) -> None:
    """Have a dataset give a black image for each that can't be read.

    Args:
        dataset (Dataset): To validate or test with, or wrappers around some.
            It is changed.
    """
    for part in leaves_of(dataset):
        if type(getattr(part, 'pipeline', None)) is Compose:
            part.pipeline = BlackIfUnread(part.pipeline)
