# Copyright (c) the autoprog_mm authors. All rights reserved.
import os.path as osp
from typing import List, Optional, Sequence, Union

import cv2
from mmcv.transforms import LoadImageFromFile
from mmpretrain.datasets.base_dataset import BaseDataset
from mmpretrain.registry import DATASETS

from ..utils.errors import UserError
from .class_images import check_known, class_name, find_images


@DATASETS.register_module()
class ClassFolders(BaseDataset):
    """A user's own images, in a folder of class folders.

    See :func:`find_images` for what the folder may look like.

    Args:
        data_root (str): The folder.
        split (str): ``'train'``, ``'val'`` or ``'test'``.
        val_share (float): Share of each class that is held out where there is
            no folder to validate with. Defaults to 0.1.
        classes (Sequence[str], optional): Names of the classes in the order of
            their labels, of which the folder may lack some. Defaults to None,
            the class folders in order of their names.
        pipeline (Sequence): As mmpretrain's datasets.
        max_per_class (int | Sequence[int], optional): How many images of a
            class are used at most; a pair (begin, end) leaves out the first
            ``begin``. Defaults to None, all.
        in_memory (bool): Whether images are read when the dataset is built,
            and kept: for small ones, whose files take longer to open than to
            use. The pipeline then begins without ``LoadImageFromFile``.
            Defaults to False.
        **kwargs: As mmpretrain's ``BaseDataset``.

    Raises:
        UserError: For a folder that isn't as expected, or has a class that is
            not in ``classes``.
    """

    def __init__(self,
                 data_root: str,
                 split: str,
                 val_share: float = 0.1,
                 classes: Optional[Sequence[str]] = None,
                 pipeline: Sequence = (),
                 max_per_class: Union[int, Sequence[int], None] = None,
                 in_memory: bool = False,
                 **kwargs) -> None:
        self.split = split
        self.val_share = val_share
        self.max_per_class = max_per_class
        self.in_memory = in_memory
        kwargs.setdefault('test_mode', split != 'train')
        if classes is not None and not isinstance(classes, str):
            classes = [class_name(name) for name in classes]
        super().__init__(
            ann_file='', data_root=osp.expanduser(data_root), classes=classes, pipeline=pipeline,
            **kwargs)

    def load_data_list(self) -> List[dict]:
        """Find the images.

        Returns:
            list[dict]: ``img_path`` and ``gt_label`` of each image, and with
            ``in_memory`` ``img``, ``img_shape`` and ``ori_shape``.

        Raises:
            UserError: With ``in_memory``, if an image can't be read.
        """
        images = find_images(self.data_root, self.split, self.val_share, self.max_per_class)
        if self.CLASSES is None:
            self._metainfo['classes'] = tuple(images.files)
        check_known(images, self.CLASSES)
        found = [
            dict(img_path=osp.join(images.folder, file), gt_label=self.class_to_idx[name])
            for name, files in images.files.items() for file in files
        ]
        return [self._load(item) for item in found] if self.in_memory else found

    @staticmethod
    def _load(item: dict) -> dict:
        try:
            return LoadImageFromFile()(item)
        except (AssertionError, OSError, cv2.error) as error:  # the first: it can't be decoded
            raise UserError(
                f'data_root: the image {item["img_path"]!r} cannot be read. Delete or mend it, or '
                'leave in_memory out to train without it.') from error

    def extra_repr(self) -> List[str]:
        """The extra representation information of the dataset."""
        return [f'Folder: \t{self.data_root}', f'Split: \t{self.split}']
