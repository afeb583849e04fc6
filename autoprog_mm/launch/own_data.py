# Copyright (c) the autoprog_mm authors. All rights reserved.
"""From a folder of images to the settings that a config leaves open.

A config whose datasets are ``ClassFolders`` may leave settings at None. They
are filled in when a tool starts, so that a user counts no classes and sets no
sizes, and what was filled in stands in the config that the run saves.
"""
import os.path as osp
from collections import Counter
from statistics import median
from typing import Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import cv2
from mmengine.config import Config, ConfigDict
from mmpretrain.registry import DATASETS
from PIL import Image

from ..datasets.class_folders import (
    ClassFolders,
    ClassImages,
    check_known,
    find_images,
    listed,
    subfolders,
)
from ..engine.checkpoint import MODEL_CONFIG, load_plain
from ..utils.errors import UserError

DATALOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
IMAGE_SIZES = (32, 64, 96, 128, 224)
PATCH_SIZES = (16, 8, 4)
_ENLARGED = 1.25  # at most: what has more pixels than the file costs time and shows nothing new
_LEAST_PATCHES = 8  # a side
_FULL_PATCHES = 14  # a side, as of DeiT at 224 pixels
_BATCH_SIZES = (128, 64, 32, 16, 8)
_LEAST_STEPS = 16  # of an epoch, for which the batch gets smaller
_WARM_UP_EPOCHS = 5
_MEASURED = 200  # images
_FOUND = ('classes', 'image_size', 'patch_size')  # what a test takes from the checkpoint
_NO_ROOT = ('data_root is not set. Say where your images are with --cfg-options '
            'data_root=/path/to/folder, a folder of one folder a class.')


def leaf_datasets(key: str, dataset: dict) -> Iterator[Tuple[str, dict]]:
    """The datasets inside of wrappers, with their places in the config.

    Args:
        key (str): Place of ``dataset``.
        dataset (dict): Config of a dataset, or of a wrapper of some.

    Yields:
        tuple[str, dict]: Place and config of a dataset that wraps no other.
    """
    if isinstance(dataset.get('datasets'), (list, tuple)):
        for i, part in enumerate(dataset['datasets']):
            yield from leaf_datasets(f'{key}.datasets.{i}', part)
    elif isinstance(dataset.get('dataset'), dict):
        yield from leaf_datasets(f'{key}.dataset', dataset['dataset'])
    else:
        yield key, dataset


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
        ValueError: For a folder or for settings that can't work.
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
    if checkpoint is None:
        _check_classes(cfg, images)
    if cfg.get('classes') is None:
        cfg.classes = _classes(first)
    for part in first:
        check_known(part, cfg.classes)
    for dataset in (d for pairs in datasets.values() for d in pairs.values()):
        dataset['classes'] = list(cfg.classes)
    for name in DATALOADERS[1:]:
        _check_readable([path for part in images.get(name, ()) for path in part.paths])

    rows = {'folder': ', '.join(dict.fromkeys(part.folder for part in first))}
    rows['classes'] = f'{len(cfg.classes)}: {listed(cfg.classes)}'
    for name, what in zip(DATALOADERS, ('to train', 'to validate', 'to test')):
        if images.get(name):
            rows[what] = _counted(images[name], name)
    rows['size'] = _fill_sizes(cfg, first)
    _fill_model(cfg)
    if checkpoint is None:
        rows.update(_fill_training(cfg, sum(map(len, first)), num_processes))
    rows['passed over'] = _ignored(images) or 'nothing'
    return 'Your images\n' + '\n'.join(f'  {name:<14}{text}' for name, text in rows.items())


# -------------------------------------------------------------------- choices


def choose_image_size(short_side: float) -> int:
    """The full resolution for images of a size.

    Args:
        short_side (float): Their typical short side, in pixels.

    Returns:
        int: The largest of :data:`IMAGE_SIZES` to which such images are
        enlarged by no more than a quarter.
    """
    return max((size for size in IMAGE_SIZES if size <= _ENLARGED * short_side),
               default=IMAGE_SIZES[0])


def choose_patch_size(image_size: int) -> int:
    """The patch size for a resolution.

    Args:
        image_size (int): The full resolution.

    Returns:
        int: The largest of :data:`PATCH_SIZES` that divides it into at least
        eight patches a side, or else the smallest that divides it.

    Raises:
        ValueError: If none does.
    """
    fitting = [patch for patch in PATCH_SIZES if image_size % patch == 0]
    if not fitting:
        raise UserError(
            f'image_size must be a multiple of {PATCH_SIZES[-1]}, but got {image_size!r}; or set '
            'patch_size to a divisor of it.')
    return next((patch for patch in fitting if image_size // patch >= _LEAST_PATCHES),
                fitting[-1])


def choose_divisor(image_size: int, patch_size: int) -> int:
    """The ``resolution_divisor`` of a schedule.

    Args:
        image_size (int): The full resolution.
        patch_size (int): The patch size.

    Returns:
        int: Two patches for as many as DeiT's at 224 pixels (the paper's 32),
        one patch for fewer, so that resolutions have enough steps to grow in.
    """
    if image_size // patch_size >= _FULL_PATCHES and image_size % (2 * patch_size) == 0:
        return 2 * patch_size
    return patch_size


def choose_batch_size(num_images: int) -> int:
    """The batch size of one process.

    Args:
        num_images (int): How many images it trains with in an epoch.

    Returns:
        int: 128, or less so that an epoch has at least 16 steps; 8 or all
        images where there are too few for that.
    """
    return next((size for size in _BATCH_SIZES if num_images >= _LEAST_STEPS * size),
                max(1, min(_BATCH_SIZES[-1], num_images)))


def choose_lr(batch_size: int) -> float:
    """The learning rate for a batch size.

    Args:
        batch_size (int): Of an update, of all processes.

    Returns:
        float: DeiT's 1e-3 at 1024, linearly, but at least 5e-4. Below a batch
        of 512, Adam needs no smaller steps, and a small folder has few.
    """
    return max(5e-4, 1e-3 * batch_size / 1024)


# ----------------------------------------------------------------- the folder


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
    return root


def _take_over(cfg: Config, checkpoint: str) -> None:
    """Take what the run of a checkpoint has found, where the config leaves it open."""
    if all(cfg.get(key) is not None for key in _FOUND):
        return
    found = load_plain(checkpoint, mmap=True).get(MODEL_CONFIG)
    if found is None:
        raise UserError(
            f'{checkpoint!r} does not say what its model is built of. Test it with the config that '
            f'its run has saved in its work directory, or set {", ".join(_FOUND)}.')
    for key in _FOUND:
        if cfg.get(key) is None:
            cfg[key] = found.get(key)


def _classes(parts: Sequence[ClassImages]) -> List[str]:
    return sorted({name for part in parts for name in part.files})


def _check_classes(cfg: Config, images: Mapping[str, Sequence[ClassImages]]) -> None:
    """Check the classes to train and to validate against each other and the config's."""
    train, val = (images[name] for name in DATALOADERS[:2])
    classes, folder = _classes(train), train[0].folder
    if len(classes) == 1:
        inside = osp.join(folder, classes[0])
        hint = f' If the classes are the folders in there, set data_root={inside}.' \
            if len(subfolders(inside)) > 1 else ''
        raise UserError(
            f'data_root: {folder!r} has the folder of one class only, {classes[0]!r}, so there is '
            f'nothing to tell apart.{hint}')
    known = cfg.get('classes')
    if known is not None and set(known) != set(classes):
        raise UserError(
            f'classes: the config is for {listed(known)}, but {folder!r} has {listed(classes)}. '
            'Set classes=None to take those of the folder.')
    if not val:
        return
    for here, there in ((train, val), (val, train)):
        missing = [name for name in _classes(here) if name not in _classes(there)]
        if missing:
            raise UserError(
                f'data_root: {listed(missing)} is in {here[0].folder!r}, but not in '
                f'{there[0].folder!r}. To train and to validate, the same class folders are '
                'needed.')


def _counted(parts: Sequence[ClassImages], loader: str) -> str:
    of_class: Counter = Counter()
    for part in parts:
        of_class.update({name: len(files) for name, files in part.files.items()})
    fewest, most = min(of_class.values()), max(of_class.values())
    text = f'{sum(of_class.values())} images, {fewest}'
    text += f'{"" if fewest == most else f" to {most}"} of each class'
    shares = [f'{part.share:g}' for part in parts if 0 < part.share < 1]
    if shares and loader != 'train_dataloader':
        text += f', held out by val_share={shares[0]}'
    return text


def _ignored(images: Mapping[str, Sequence[ClassImages]]) -> str:
    # A folder that is shared by training and validation counts once.
    folders = {part.folder: part for parts in images.values() for part in parts}.values()
    types: Counter = sum((part.ignored for part in folders), Counter())
    loose = sum(part.loose for part in folders)
    texts = []
    if types:
        texts.append(f'{sum(types.values())} files that are no images ({", ".join(sorted(types))})')
    if loose:
        texts.append(f'{loose} images beside the class folders')
    return ' and '.join(texts)


def _short_side(path: str) -> Optional[int]:
    """Of an image, from its header; None if it can't be read."""
    try:
        with Image.open(path) as image:
            # What OpenCV can't decode, such as a GIF with another name, can't be trained with.
            return min(image.size) if cv2.haveImageReader(path) else None
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


def _check_readable(paths: Sequence[str]) -> None:
    # In training RunGuardHook replaces such an image; a validation can't.
    bad = [path for path in paths if _short_side(path) is None]
    if bad:
        raise UserError(
            f'data_root: {len(bad)} of the images to validate or test with cannot be read: '
            f'{listed(bad)}. Delete or mend them.')


# --------------------------------------------------------------- the settings


def _fill_sizes(cfg: Config, parts: Sequence[ClassImages]) -> str:
    """Fill in sizes of images and patches, and tell why."""
    backbone, why = _model(cfg).backbone, ''
    size, patch = _given(cfg, 'image_size', 'img_size'), _given(cfg, 'patch_size', 'patch_size')
    if size is None:
        paths = [path for part in parts for path in part.paths]
        paths = paths[::-(-len(paths) // _MEASURED)]
        sides = [side for side in map(_short_side, paths) if side is not None]
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
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)
                                  or value < 1):
            raise UserError(f'{key} must be a positive int, but got {value!r}.')
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


def _fill_training(cfg: Config, num_images: int, num_processes: int) -> Dict[str, str]:
    """Fill in batch size, learning rate and schedule."""
    loader = cfg.train_dataloader
    _set(loader, 'batch_size', choose_batch_size(num_images // num_processes))
    batch = loader.batch_size * num_processes
    if loader.get('drop_last') and num_images < batch:
        each = '' if num_processes == 1 else f' in each of {num_processes} processes'
        raise UserError(
            f'train_dataloader.batch_size is {loader.batch_size}{each}, but there are only '
            f'{num_images} images to train with. Lower it, or leave it out.')
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
        'batch': f'{batch} images, {num_images // batch} steps an epoch',
        'learning rate': f'{optimizer.lr:g}',
        'epochs': f'{epochs}',
    }


def _model(cfg: Config) -> ConfigDict:
    model = cfg.model
    while 'module' in model:  # of test-time augmentation
        model = model.module
    return model


def _set(part: dict, key: str, value: object) -> None:
    """Set what is there and None; the rest is the user's."""
    if key in part and part[key] is None:
        part[key] = value
