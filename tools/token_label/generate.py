# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Make the label maps of token labeling for a folder of images, with any teacher.

For ``IMAGE_ROOT/a/b.JPEG`` it writes ``OUT/a/b.pt``, a tensor of shape
(2, k, H, W): the scores (before softmax) and the classes of the k best classes
in each cell of the teacher's last feature map. The map covers the whole image,
which is resized to the teacher's square input without any cropping. Training
reads it with ``LoadTokenLabel``.

A run that was stopped goes on where it was, and a map doesn't depend on how
often that happened or on the number of processes. One run at a time may write
to a folder.
"""
import argparse
import json
import logging
import os
import os.path as osp
import re
import sys
import time
from typing import Dict, List, Sequence, Tuple

# Works from a checkout that is not installed, too.
sys.path.insert(0, osp.join(osp.dirname(osp.abspath(__file__)), '..', '..'))

import autoprog_mm  # noqa: E402, F401  isort: skip  (before anything that imports torchvision)

import torch  # noqa: E402
from mmengine.logging import print_log  # noqa: E402

from autoprog_mm.datasets.class_images import class_name  # noqa: E402
from autoprog_mm.datasets.image_files import (  # noqa: E402
    IMAGE_TYPES,
    ImageFiles,
    describe_passed_over,
    find_image_files,
    subfolders,
)
from autoprog_mm.launch import exit_on_user_error, parse  # noqa: E402
from autoprog_mm.token_label.label_maps import (  # noqa: E402
    Image,
    Result,
    make_all_maps,
    map_bytes,
    map_path,
)
from autoprog_mm.token_label.teachers import DenseTeacher, build_teacher  # noqa: E402
from autoprog_mm.utils import UserError, write_atomically  # noqa: E402
from autoprog_mm.utils.checks import check_int  # noqa: E402

SETTINGS_FILE = 'token_labels.json'
_UNFINISHED = re.compile(r'\.pt\.\d+\.tmp$')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Make label maps (token labeling) of images with a trained classifier')
    parser.add_argument('image_root', help='folder of the images, most often one folder a class')
    parser.add_argument('out', help='folder of the maps')
    parser.add_argument(
        '--teacher',
        required=True,
        help='timm:<model>, mmpretrain:<model> or the path of a config of mmpretrain')
    parser.add_argument('--checkpoint', help='file with the weights of the teacher')
    parser.add_argument(
        '--pretrained',
        action='store_true',
        help='let timm or mmpretrain fetch the weights of the teacher')
    parser.add_argument(
        '--num-classes',
        type=int,
        help='classes of the teacher; defaults to the number of folders in image_root')
    parser.add_argument(
        '--img-size', type=int, help='input size in pixels; defaults to that of the teacher')
    parser.add_argument('--topk', type=int, default=5, help='classes to keep in each cell')
    parser.add_argument('--batch-size', type=int, default=64)
    parser.add_argument(
        '--workers', type=int, default=4, help='workers that load images, of each process')
    parser.add_argument(
        '--processes',
        type=int,
        default=1,
        help='processes that share the images, on as many GPUs as there are')
    parser.add_argument('--amp', action='store_true', help='use mixed precision on CUDA')
    return parse(parser)


def main() -> int:
    args = parse_args()
    check_args(args)
    found, classes = find_images(args.image_root)
    images = found.files
    args.batch_size = min(args.batch_size, len(images))
    args.num_classes = args.num_classes or len(classes) or None
    teacher = build_teacher(args.teacher, args.checkpoint, args.pretrained, args.num_classes,
                            args.img_size)
    check_teacher(args, teacher, classes)
    settings = describe(args, teacher)
    size = map_bytes(teacher, args.topk)
    check_settings(args.out, settings, images)

    os.makedirs(args.out, exist_ok=True)
    remove_unfinished(args.out)
    write_atomically(osp.join(args.out, SETTINGS_FILE), json.dumps(settings, indent=2) + '\n')
    batches, num_left = split(args, images, classes, size)
    for folder in sorted({osp.dirname(image.path) for batch in batches for image in batch}):
        os.makedirs(osp.join(args.out, folder), exist_ok=True)

    begin = time.perf_counter()
    result = make_all_maps(args, teacher, batches, num_left) if batches else Result(0, [])
    report(args, result, found, num_left, size, time.perf_counter() - begin,
           len(classes) == teacher.num_classes)
    return 1 if result.failed else 0


# --------------------------------------------------------------------- checks


def check_args(args: argparse.Namespace) -> None:
    for name in ('num_classes', 'img_size', 'topk', 'batch_size', 'processes'):
        check_int(f'--{name.replace("_", "-")}', getattr(args, name), optional=True)
    check_int('--workers', args.workers, least=0)
    if not osp.isdir(args.image_root):
        raise UserError(f'image_root: there is no folder {args.image_root!r}.')
    root, out = osp.realpath(args.image_root), osp.realpath(args.out)
    if osp.commonpath([root, out]) == root:
        raise UserError(
            f'out ({args.out!r}) must not lie in image_root ({args.image_root!r}), where its '
            'folders would count as classes. Give a folder beside it.')
    if args.amp and not torch.cuda.is_available():
        print_log('--amp: there is no CUDA device, so this runs in float32.', level=logging.WARNING)
        args.amp = False


def find_images(root: str) -> Tuple[ImageFiles, List[str]]:
    """Images below a folder and the names of its class folders, both in order."""
    found = find_image_files(root)
    images, classes = found.files, sorted(subfolders(root), key=class_name)
    if not images:
        raise UserError(
            f'image_root: the folder {root!r} has no images ({", ".join(IMAGE_TYPES)}).')
    by_map: Dict[str, str] = {}
    for image in images:
        other = by_map.setdefault(map_path(image), image)
        if other != image:
            raise UserError(
                f'image_root: {other!r} and {image!r} would have the same label map '
                f'{map_path(image)!r}. Rename one of them.')
    return found, classes


def check_teacher(args: argparse.Namespace, teacher: DenseTeacher,
                  classes: Sequence[str]) -> None:
    if args.num_classes is not None and teacher.num_classes != args.num_classes:
        raise UserError(
            f'The teacher {args.teacher} has {teacher.num_classes} classes, but {args.num_classes} '
            f'are expected (--num-classes; by default the class folders in {args.image_root!r}, '
            f'{len(classes)}). Take a teacher that was trained on these classes, or give '
            f'--num-classes {teacher.num_classes} if the maps should have those of the teacher.')
    if args.topk > teacher.num_classes:
        raise UserError(
            f'--topk must be at most {teacher.num_classes}, the number of classes of the teacher, '
            f'but got {args.topk}.')
    if any(teacher.img_size % cells for cells in teacher.grid):
        print_log(
            f'{teacher.img_size} pixels are no multiple of the grid {teacher.grid}: the cells may '
            'lie a little beside the parts of the image that the maps say they are.',
            level=logging.WARNING)


def describe(args: argparse.Namespace, teacher: DenseTeacher) -> dict:
    """All that maps of one folder must have in common."""
    return dict(
        teacher=osp.basename(args.teacher) if osp.isfile(args.teacher) else args.teacher,
        checkpoint='pretrained' if args.checkpoint is None else osp.basename(args.checkpoint),
        fingerprint=teacher.fingerprint,
        num_classes=teacher.num_classes,
        img_size=teacher.img_size,
        grid=list(teacher.grid),
        topk=args.topk,
        input=teacher.describe_input())


def check_settings(out: str, settings: dict, images: Sequence[str]) -> None:
    """Raise an error if there are maps in OUT that this run would not make."""
    path = osp.join(out, SETTINGS_FILE)
    fix = 'Give another out, or delete this one.'
    if not osp.isfile(path):
        for image in images:
            if osp.exists(osp.join(out, map_path(image))):
                raise UserError(
                    f'out: {map_path(image)!r} is in {out!r} already, but no {SETTINGS_FILE} that '
                    f'says how it was made. {fix}')
        return
    try:
        with open(path, encoding='utf-8') as file:
            before = dict(json.load(file))
    except (TypeError, ValueError) as error:
        raise UserError(f'out: {path!r} cannot be read ({error}). {fix}') from error
    differences = [
        f'{name} was {before.get(name)!r} and is {settings.get(name)!r}'
        for name in {**settings, **before} if before.get(name) != settings.get(name)
    ]
    if differences:
        raise UserError(
            f'out: {out!r} has label maps of other settings: {"; ".join(differences)}. {fix}')


def remove_unfinished(out: str) -> None:
    """Remove what a killed run has left half written."""
    for folder, _, files in os.walk(out):
        for file in files:
            if _UNFINISHED.search(file):
                os.remove(osp.join(folder, file))


def split(args: argparse.Namespace, images: Sequence[str], classes: Sequence[str],
          size: int) -> Tuple[List[List[Image]], int]:
    """Batches that still have maps to be made, and the number of these maps.

    An image has the same batch and the same slot in every run, and a batch has
    always the same size. So the teacher computes exactly the same each time.
    """
    labels = {name: label for label, name in enumerate(classes)}
    batches: List[List[Image]] = []
    for begin in range(0, len(images), args.batch_size):
        batch = [
            Image(slot, path, labels.get(path.split('/')[0], -1))
            for slot, path in enumerate(images[begin:begin + args.batch_size])
            if not is_current(osp.join(args.image_root, path),
                              osp.join(args.out, map_path(path)), size)
        ]
        if batch:
            batches.append(batch)
    return batches, sum(map(len, batches))


def is_current(image: str, label_map: str, size: int) -> bool:
    """Whether a map is there, all of it, and not older than its image."""
    try:
        status = os.stat(label_map)
    except FileNotFoundError:
        return False
    return status.st_size == size and status.st_mtime >= os.stat(image).st_mtime


# --------------------------------------------------------------------- report


def report(args: argparse.Namespace, result: Result, found: ImageFiles, num_left: int,
           size: int, seconds: float, compare: bool) -> None:
    images = found.files
    made = num_left - len(result.failed)
    print(f'{len(images) - len(result.failed)} label maps of {size} bytes each in '
          f'{args.out}: {len(images) - num_left} were there, {made} were made in {seconds:.1f} s '
          f'({made / seconds:.1f} images/s).')
    print(f'{len(images)} images in {args.image_root}. Passed over: '
          f'{describe_passed_over(found.ignored, found.links) or "nothing"}.')
    if compare and made:
        print(f"The teacher's best class is that of the folder for {result.agreed} of {made} "
              f'images ({100 * result.agreed / made:.1f} %). If that is far below its accuracy, '
              'its classes are not in the order of the sorted folders.')
    loader = f'label_root={args.out!r}, num_classes={args.num_classes}'
    if any(image.count('/') != 1 for image in images):
        loader += f', image_root={args.image_root!r}'
    print(f"To train with them: dict(type='LoadTokenLabel', {loader})")
    if result.failed:
        print(f'No label map was made of {len(result.failed)} images:')
        for path, reason in result.failed:
            print(f'  {path}: {reason}')


if __name__ == '__main__':
    with exit_on_user_error():
        sys.exit(main())
