# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Data, recipe and machine of a run, for comparisons."""
import os.path as osp

import mmengine
import mmpretrain
import torch
from mmengine.dist import get_world_size

from ..datasets.seeded import batch_size_of
from ..utils.plain_config import plain_config
from ..version import __version__


def describe_run(runner) -> dict:
    """Data, recipe and machine of a run, in plain types.

    Args:
        runner (Runner): One that is about to train.

    Returns:
        dict: ``config`` (name of the file, None without one), ``seed``,
        ``epochs`` (of the recipe), ``batch_size`` (images of an update, over processes and
        accumulation), ``steps_per_epoch``, ``processes``, ``device``,
        ``samples``, ``dataset`` (its config without pipelines) and
        ``versions``.
    """
    loader = runner.train_dataloader
    course = getattr(runner.train_loop, 'course', None)
    filename = runner.cfg.filename
    dataset = runner.cfg.get('train_dataloader', {}).get('dataset')
    cuda = torch.cuda.is_available()
    return dict(
        config=osp.splitext(osp.basename(filename))[0] if filename else None,
        seed=runner.seed,
        epochs=runner.max_epochs if course is None else course.epochs,
        batch_size=batch_size_of(loader) * get_world_size() *
        runner.optim_wrapper._accumulative_counts,
        steps_per_epoch=len(loader),
        processes=get_world_size(),
        device=torch.cuda.get_device_name() if cuda else
        f'CPU, {torch.get_num_threads()} threads',
        samples=len(loader.dataset),
        dataset=plain_config(dataset, ['pipeline']) if isinstance(dataset, dict) else
        dict(type=type(loader.dataset).__name__),
        versions=dict(autoprog_mm=__version__, torch=torch.__version__,
                      mmengine=mmengine.__version__, mmpretrain=mmpretrain.__version__))
