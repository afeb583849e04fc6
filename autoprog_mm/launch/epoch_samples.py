# Copyright (c) the autoprog_mm authors. All rights reserved.
"""How many samples an epoch has, through wrappers, `indices` and samplers."""
import copy
import math
from collections import Counter
from dataclasses import dataclass, field

from mmengine.config import ConfigDict
from mmengine.registry import DATA_SAMPLERS, DefaultScope
from mmpretrain.registry import DATASETS

from .dataloaders import leaf_datasets


@dataclass
class EpochSamples:
    """The samples of an epoch, of all processes.

    Args:
        number (int): How many.
        of_class (Counter): How many of each label, before the sampler draws
            from them; empty if the dataset doesn't say.
        reason (str): What makes them other than the images; empty if they are
            the images.
    """

    number: int
    of_class: Counter = field(default_factory=Counter)
    reason: str = ''

    def steps(self, loader: ConfigDict, num_processes: int = 1) -> int:
        """Steps of an epoch of each process.

        Args:
            loader (ConfigDict): Config of the dataloader, with a batch size.
            num_processes (int): How many processes share the samples.
                Defaults to 1.
        """
        if loader.get('num_batch_per_epoch') is not None:
            return loader.num_batch_per_epoch
        share = math.ceil(self.number / num_processes) / loader.batch_size
        return int(share) if loader.get('drop_last') else math.ceil(share)


def count_samples(loader: ConfigDict, num_images: int) -> EpochSamples:
    """Count the samples of an epoch, by building dataset and sampler without a pipeline.

    Args:
        loader (ConfigDict): Config of a dataloader.
        num_images (int): Images in the folders of its datasets.
    """
    cfg = copy.deepcopy(ConfigDict(dataset=loader.dataset, sampler=loader.get('sampler')))
    for _, leaf in leaf_datasets('', cfg.dataset):
        leaf.pipeline = []
        if 'in_memory' in leaf:
            leaf.in_memory = False
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        dataset = DATASETS.build(cfg.dataset)
        sampler = dataset if cfg.sampler is None else DATA_SAMPLERS.build(
            cfg.sampler, default_args=dict(dataset=dataset, seed=0))
    reasons = [_name(loader.dataset)] if len(dataset) != num_images else []
    if len(sampler) != len(dataset):
        reasons.append(type(sampler).__name__)
    found = EpochSamples(len(sampler), reason=' and '.join(reasons))
    if reasons and hasattr(dataset, 'get_data_info'):
        found.of_class.update(dict.fromkeys(range(len(dataset.metainfo.get('classes', ()))), 0))
        found.of_class.update(
            int(dataset.get_data_info(i)['gt_label']) for i in range(len(dataset)))
    return found


def _name(dataset: dict) -> str:
    kind = dataset['type']
    kind = kind if isinstance(kind, str) else kind.__name__
    return 'indices' if dataset.get('indices') is not None else kind.rpartition('.')[2]
