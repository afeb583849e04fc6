# Copyright (c) the autoprog_mm authors. All rights reserved.
"""From a folder of images to the settings that a config leaves open.

A config whose datasets are ``ClassFolders`` may leave settings at None. They
are filled in when a tool starts, so that a user counts no classes and sets no
sizes, and what was filled in stands in the config that the run saves.
"""
from statistics import median
from typing import Dict, Mapping, Optional, Sequence

from mmengine.config import Config, ConfigDict
from mmpretrain.registry import DATASETS

from ..datasets.class_folders import ClassFolders
from ..datasets.class_images import ClassImages, check_known, class_name, find_images
from ..engine.checkpoint import MODEL_CONFIG
from ..models import read_weights
from ..utils.checks import check_int, check_number
from ..utils.errors import UserError
from ..utils.names import listed
from .dataloaders import DATALOADERS, leaf_datasets
from .epoch_samples import EpochSamples, count_samples
from .own_data_choices import (
    choose_batch_size,
    choose_divisor,
    choose_image_size,
    choose_lr,
    choose_num_stages,
    choose_patch_size,
    choose_search,
)
from .own_images import (
    check_classes,
    check_readable,
    classes_of,
    describe_count,
    describe_ignored,
    shares_folders,
    short_side,
)

_WARM_UP_EPOCHS = 5
_MEASURED = 200  # images
_FOUND = ('classes', 'image_size', 'patch_size')  # what a test takes from the checkpoint
_NO_ROOT = ('data_root is not set. Say where your images are with --cfg-options '
            'data_root=/path/to/folder, a folder of one folder a class.')


def fill_custom_config(cfg: Config,
                       options: Mapping[str, object],
                       num_processes: int = 1,
                       checkpoint: Optional[str] = None) -> str:
    """Fill in what a config with ``ClassFolders`` leaves at None.

    Args:
        cfg (Config): Changed in place; one without such datasets stays as it
            is.
        options (dict): What the command line has set, by dotted keys.
        num_processes (int): How many processes train. Defaults to 1.
        checkpoint (str, optional): The checkpoint to test; what its run has
            found holds. Defaults to None, to train.

    Returns:
        str: What was found and chosen, as a text of a few lines; empty for a
        config that trains (or tests) with other datasets.

    Raises:
        UserError: For a folder or for settings that can't work.
    """
    datasets = _own_datasets(cfg)
    used = DATALOADERS[:2] if checkpoint is None else DATALOADERS[2:]
    if not datasets[used[0]]:
        return ''
    if checkpoint is not None:
        _take_over(cfg, checkpoint)
    for key, dataset in (pair for pairs in datasets.values() for pair in pairs.items()):
        if dataset.get('data_root') is None or (
                'data_root' in options and f'{key}.data_root' not in options):
            dataset['data_root'] = _check_root(cfg.get('data_root'))
        if cfg.get('val_share') is not None:  # one for all, or images would be in both
            dataset['val_share'] = cfg.val_share

    images = {
        name: [
            find_images(d['data_root'], d['split'], d.get('val_share', 0.1), d.get('max_per_class'))
            for d in datasets[name].values()
        ] for name in used
    }
    first = images[used[0]]
    if cfg.get('classes') is not None:
        cfg.classes = [class_name(name) for name in cfg.classes]
    if checkpoint is None:
        check_classes(*(images[name] for name in used), cfg.get('classes'))
    if cfg.get('classes') is None:
        cfg.classes = classes_of(first)
    for part in first:
        check_known(part, cfg.classes)
    for dataset in (d for pairs in datasets.values() for d in pairs.values()):
        dataset['classes'] = list(cfg.classes)
    for name in DATALOADERS[1:]:
        check_readable([path for part in images.get(name, ()) for path in part.paths])

    rows = {'folder': ', '.join(dict.fromkeys(part.folder for part in first))}
    rows['classes'] = f'{len(cfg.classes)}: {listed(cfg.classes)}'
    samples = {name: count_samples(cfg[name], sum(map(len, parts)))
               for name, parts in images.items() if parts}
    for name, what in zip(DATALOADERS, ('to train', 'to validate', 'to test')):
        if name in samples:
            rows[what] = describe_count(images[name], samples[name], name != DATALOADERS[0])
    if shares_folders(first, images.get(DATALOADERS[1], ())):
        rows['take care'] = ('by links, images to train with are also validated with, so the '
                             'accuracy says little')
    rows['size'] = _fill_sizes(cfg, first)
    _fill_model(cfg)
    if checkpoint is not None:
        for hook in cfg.get('custom_hooks') or ():
            _set(hook, 'num_stages', 1)  # of no interest to a test
    else:
        rows.update(_fill_training(cfg, samples[used[0]], num_processes))
    rows['passed over'] = describe_ignored(part for parts in images.values() for part in parts)
    return 'Your images\n' + '\n'.join(f'  {name:<14}{text}' for name, text in rows.items())


# ----------------------------------------------------------------- the folder


def has_own_datasets(cfg: Config) -> bool:
    """Whether a config has a ``ClassFolders`` anywhere.

    Args:
        cfg (Config): The config.
    """
    return any(_own_datasets(cfg).values())


def _own_datasets(cfg: Config) -> Dict[str, Dict[str, ConfigDict]]:
    """Configs of ``ClassFolders`` by place, of each dataloader."""
    found = {}
    for name in DATALOADERS:
        dataset = (cfg.get(name) or {}).get('dataset')
        leaves = leaf_datasets(f'{name}.dataset', dataset) if isinstance(dataset, dict) else ()
        found[name] = {key: dataset for key, dataset in leaves if _is_own(dataset.get('type'))}
    return found


def _is_own(kind: object) -> bool:
    kind = DATASETS.get(kind) if isinstance(kind, str) else kind
    return isinstance(kind, type) and issubclass(kind, ClassFolders)


def _check_root(root: object) -> str:
    if root is None or root == '':
        raise UserError(_NO_ROOT)
    if not isinstance(root, str):  # of --cfg-options data_root=2024 or =a,b
        raise UserError(
            f'data_root must be the path of one folder, but --cfg-options read it as {root!r}. '
            'Write a name of digits as ./2024, and a path with a comma as data_root=\'"a,b"\'.')
    try:
        root.encode()
    except UnicodeEncodeError:  # which the config that is saved could not have
        raise UserError(
            f'data_root: the name of the folder {root!r} is not UTF-8. Rename it, or make a link '
            'with another name.') from None
    return root


def _take_over(cfg: Config, checkpoint: str) -> None:
    """Take what the run of a checkpoint has found, where the config leaves it open."""
    if all(cfg.get(key) is not None for key in _FOUND):
        return
    found = read_weights(checkpoint, mmap=True).get(MODEL_CONFIG)
    if not isinstance(found, dict):
        raise UserError(
            f'{checkpoint!r} does not say what its model is built of. Test it with the config that '
            f'its run has saved in its work directory, or set {", ".join(_FOUND)}.')
    for key in _FOUND:
        if cfg.get(key) is None:
            cfg[key] = found.get(key)


# --------------------------------------------------------------- the settings


def _fill_sizes(cfg: Config, parts: Sequence[ClassImages]) -> str:
    """Fill in sizes of images and patches, and tell why."""
    backbone, why = _model(cfg).backbone, ''
    size, patch = _given(cfg, 'image_size', 'img_size'), _given(cfg, 'patch_size', 'patch_size')
    if size is None:
        paths = [path for part in parts for path in part.paths]
        paths = paths[::-(-len(paths) // _MEASURED)]
        sides = [side for side in map(short_side, paths) if side is not None]
        if not sides:
            raise UserError(
                f'data_root: none of {len(paths)} images can be read, such as {paths[0]!r}.')
        typical = median(sides)
        size, why = choose_image_size(typical), f' (short sides are {typical:g} in the middle)'
    cfg.image_size = size
    cfg.patch_size = patch = choose_patch_size(size) if patch is None else patch
    _set(backbone, 'img_size', size)
    _set(backbone, 'patch_size', patch)
    for hook in cfg.get('custom_hooks') or ():
        _set(hook, 'resolution_divisor', choose_divisor(size, patch))
    pipelines = [cfg.get('train_pipeline'), cfg.get('test_pipeline')] + [
        d.get('pipeline') for pairs in _own_datasets(cfg).values() for d in pairs.values()]
    for transform in (t for pipeline in pipelines for t in pipeline or ()):
        for name in ('scale', 'crop_size'):
            _set(transform, name, size)
    return f'{size} pixels{why}, in patches of {patch}'


def _given(cfg: Config, key: str, of_backbone: str) -> Optional[int]:
    """A size from its place in the config or else the backbone's, if it is set."""
    size, other = cfg.get(key), _model(cfg).backbone.get(of_backbone)
    for value in (size, other):
        check_int(key, value, optional=True)
    if size is not None and other is not None and size != other:
        raise UserError(
            f'{key} ({size}) and model.backbone.{of_backbone} ({other}) differ. Set {key} alone, '
            'with a config that leaves the other one open.')
    return other if size is None else size


def _fill_model(cfg: Config) -> None:
    model, number = _model(cfg), len(cfg.classes)
    _set(model.head, 'num_classes', number)
    if model.head.num_classes != number:
        raise UserError(
            f'model.head.num_classes is {model.head.num_classes}, but there are {number} classes. '
            'Leave it out.')
    for owner in (model, cfg):
        if owner.get('data_preprocessor') is not None:
            _set(owner.data_preprocessor, 'num_classes', number)


def _fill_training(cfg: Config, samples: EpochSamples, num_processes: int) -> Dict[str, str]:
    """Fill in batch size, learning rate and schedule."""
    loader = cfg.train_dataloader
    _set(loader, 'batch_size', choose_batch_size(samples.number // num_processes))
    batch, steps = loader.batch_size * num_processes, samples.steps(loader, num_processes)
    if not steps:
        each = '' if num_processes == 1 else f' in each of {num_processes} processes'
        raise UserError(
            f'train_dataloader.batch_size is {loader.batch_size}{each}, but there are only '
            f'{samples.number} images to train with. Lower it, or leave it out.')
    optimizer = cfg.optim_wrapper.optimizer
    _set(optimizer, 'lr', choose_lr(batch * cfg.optim_wrapper.get('accumulative_counts', 1)))
    epochs = cfg.train_cfg.max_epochs
    warm_up = min(_WARM_UP_EPOCHS, max(1, epochs // 10))
    for scheduler in cfg.get('param_scheduler') or ():
        if scheduler.type == 'LinearLR':
            _set(scheduler, 'end', warm_up)
        else:
            _set(scheduler, 'begin', min(warm_up, epochs - 1))
            _set(scheduler, 'end', epochs)
    return {
        'batch': f'{batch} images, {steps} steps an epoch',
        'learning rate': f'{optimizer.lr:g}',
        'epochs': f'{epochs}',
        **_fill_stages(cfg, epochs, steps),
    }


def _fill_stages(cfg: Config, epochs: int, steps: int) -> Dict[str, str]:
    """Fill in as many stages, and as long searches, as there are epochs for."""
    rows: Dict[str, str] = {}
    for hook in cfg.get('custom_hooks') or ():
        if 'num_stages' not in hook:
            continue
        check_int('num_stages', hook.num_stages, optional=True)
        speedup = hook.get('speedup')
        check_number('speedup', 1 if speedup is None else speedup, low=1)
        budget, few = epochs / (speedup or 1), f'for {epochs} epoch{"s" * (epochs > 1)}' + (
            '' if speedup is None else f' at a speedup of {speedup:g}')
        if hook.num_stages is None:
            shares = hook.get('stage_shares')
            hook.num_stages = len(shares) if isinstance(shares, Sequence) else \
                choose_num_stages(budget)
            rows['stages'] = f'{hook.num_stages}, {few}'
        search = hook.get('search')
        if hook.num_stages > 1 and search is not None and search.get('epochs', 0) is None:
            search.epochs = choose_search(
                search, budget, hook.num_stages, steps, speedup is not None)
            rows['searches'] = f'of {search.epochs} epoch{"s" * (search.epochs > 1)} each'
            if not search.epochs:
                rows['searches'], hook.search = f'none, {few}: the manual schedule', None
    return rows


def _model(cfg: Config) -> ConfigDict:
    model = cfg.model
    while 'module' in model:  # of test-time augmentation
        model = model.module
    return model


def _set(part: dict, key: str, value: object) -> None:
    """Set what is there and None; the rest is the user's."""
    if key in part and part[key] is None:
        part[key] = value
