# Copyright (c) the autoprog_mm authors. All rights reserved.
"""How many images a second one core loads at each resolution.

Compares the training pipeline of a config with mmpretrain's own: the same
transforms without "Progressive", and LoadImageFromFile and RandomResizedCrop
in place of ProgressiveDecodeCrop. Each image goes through all pipelines in
turn, with the same seed, so that other jobs disturb all alike. Seconds are CPU
seconds of the one thread; waiting for the disk is not in them.
"""
import argparse
import json
import math
import os.path as osp
import signal
import sys
import time
from statistics import mean, median
from typing import Dict, List

# Ctrl-C while libraries are imported, which takes seconds, just ends it.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler and __name__ == '__main__':
    signal.signal(signal.SIGINT, signal.SIG_DFL)
# Works from a checkout that is not installed, too.
sys.path.insert(0, osp.join(osp.dirname(osp.realpath(__file__)), '..', '..'))

import autoprog_mm  # noqa: F401  isort: skip  (before anything that imports torchvision)

import cv2
import numpy as np
import torch
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope

from autoprog_mm.datasets.image_files import find_image_files
from autoprog_mm.launch import Parser, exit_on_user_error, read_config
from autoprog_mm.utils import UserError, derive_seed, seed_sample, write_atomically

_EQUAL_PSNR = 60.  # dB, what images that are equal or differ in few last bits count as


def parse_args() -> argparse.Namespace:
    parser = Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', required=True, help='folder of images, in any subfolders')
    parser.add_argument('--prepared', help='their copy, made by tools/prepare_dataset.py')
    parser.add_argument(
        '--config', default='configs/_base_/datasets/in1k_progressive.py',
        help='config with the train_pipeline to measure')
    parser.add_argument(
        '--resolutions', type=int, nargs='+', default=[96, 112, 128, 160, 192, 224])
    parser.add_argument('--rounds', type=int, default=5, help='times to load all images')
    parser.add_argument('--limit', type=int, help='take so many of the images only')
    parser.add_argument('--out', help='JSON file for the figures')
    args = parser.parse_args()
    for name in ('rounds', 'limit'):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f'--{name} must be at least 1, but got {getattr(args, name)}.')
    return args


def find_images(args: argparse.Namespace) -> List[str]:
    """Paths below the folder, sorted."""
    if not osp.isdir(args.images):
        raise UserError(f'--images: there is no folder {args.images!r}.')
    images = find_image_files(args.images).files[:args.limit]
    if not images:
        raise UserError(f'--images: there are no images in {args.images!r}.')
    for image in images if args.prepared else []:
        if not osp.isfile(osp.join(args.prepared, image)):
            raise UserError(f'--prepared: there is no {image!r} in {args.prepared!r}.')
    return images


def pipelines(config: str, resolution: int) -> Dict[str, List[dict]]:
    """Configs of ours and stock, and how many of their transforms only load."""
    ours = [dict(cfg) for cfg in read_config(config).train_pipeline]
    if ours[0]['type'] != 'ProgressiveDecodeCrop':
        raise UserError(
            f'train_pipeline of {config!r} must begin with ProgressiveDecodeCrop, but begins with '
            f'{ours[0]["type"]}.')
    ours[0]['scale'] = resolution
    stock = [{**cfg, 'type': cfg['type'].replace('Progressive', '')} for cfg in ours]
    stock[0]['type'] = 'RandomResizedCrop'
    loading = dict(type='LoadImageFromFile', backend_args=stock[0].pop('backend_args', None))
    return dict(ours=ours, stock=[loading, *stock])


def measure(args: argparse.Namespace, images: List[str], resolution: int) -> dict:
    """Figures of one resolution."""
    configs = pipelines(args.config, resolution)
    first = dict(ours=1, stock=2)  # transforms up to the crop
    runs = {}
    for name, folder in (('stock', args.images), ('ours', args.images),
                         ('stock_prepared', args.prepared), ('ours_prepared', args.prepared)):
        if folder:
            kind = name.split('_')[0]
            runs[name] = folder, Compose(configs[kind])
            runs[f'{name}_crop'] = folder, Compose(configs[kind][:first[kind]])
    seconds = {name: [] for name in runs}
    psnr, shapes = [], set()
    for number in range(-1, args.rounds):  # round -1 warms up
        spent = dict.fromkeys(runs, 0.)
        for place, image in enumerate(images):
            order = list(runs)
            turn = (place + number) % len(order)  # nobody always finds the file in the cache
            crops = {}
            for name in order[turn:] + order[:turn]:
                folder, pipeline = runs[name]
                seed_sample(derive_seed(number + 1, place))
                results = dict(img_path=osp.join(folder, image), gt_label=0)
                begin = time.thread_time()
                crops[name] = pipeline(results)
                spent[name] += time.thread_time() - begin
            ours, stock = crops['ours_crop']['img'], crops['stock_crop']['img']
            shapes |= {ours.shape, stock.shape, tuple(crops['ours']['inputs'].shape[1:]) + (3, )}
            psnr.append(compare(ours, stock))
        if number >= 0:
            for name in runs:
                seconds[name].append(spent[name])
    if shapes != {(resolution, resolution, 3)}:
        raise UserError(f'The pipelines gave images of {shapes} instead of {resolution} pixels.')
    row = dict(resolution=resolution)
    for name in runs:
        row[name] = len(images) / median(seconds[name])
    for ours, stock in (('ours', 'stock'), ('ours_crop', 'stock_crop'),
                        ('ours_prepared', 'stock'), ('ours_prepared', 'stock_prepared')):
        if ours in runs:
            row[f'{ours}/{stock}'] = median(
                theirs / own for own, theirs in zip(seconds[ours], seconds[stock]))
    reduced = [value for value in psnr if value < _EQUAL_PSNR]
    row.update(psnr_mean=mean(psnr), psnr_min=min(psnr), differ=len(reduced) / len(psnr),
               psnr_mean_where_different=mean(reduced) if reduced else None)
    return row


def compare(first: np.ndarray, second: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two images, in dB, at most 60."""
    error = np.square(first.astype(np.float64) - second).mean()
    return min(_EQUAL_PSNR, 10 * math.log10(255**2 / error)) if error else _EQUAL_PSNR


def main() -> None:
    args = parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    init_default_scope('mmpretrain')
    images = find_images(args)
    print(f'{len(images)} images, images/s of one core, medians of {args.rounds} rounds')
    print('        with augmentations          load and crop only          '
          + ('prepared copy               ' if args.prepared else '')
          + 'PSNR of the crop, dB')
    print(f'pixels  {"stock":>7} {"ours":>7} {"ratio":>7}     {"stock":>7} {"ours":>7} '
          f'{"ratio":>7}     ' + (f'{"stock":>7} {"ours":>7} {"/stock*":>7}     '
                                 if args.prepared else '') + '   mean     min  differ')
    rows = []
    for resolution in args.resolutions:
        row = measure(args, images, resolution)
        rows.append(row)
        line = f'{resolution:>6}  '
        for ending, ratio in (('', 'ours/stock'), ('_crop', 'ours_crop/stock_crop'),
                              ('_prepared', 'ours_prepared/stock')):
            if ratio in row:
                line += (f'{row["stock" + ending]:>7.0f} {row["ours" + ending]:>7.0f} '
                         f'{row[ratio]:>7.2f}     ')
        print(f'{line}{row["psnr_mean"]:>7.1f} {row["psnr_min"]:>7.1f} '
              f'{100 * row["differ"]:>6.0f}%', flush=True)
    if args.prepared:
        print('* ours on the prepared copy against stock on the originals')
    if args.out:
        write_atomically(args.out, json.dumps(
            dict(images=len(images), rounds=args.rounds, config=args.config,
                 opencv=cv2.__version__, torch=torch.__version__, resolutions=rows),
            indent=2) + '\n')


if __name__ == '__main__':
    with exit_on_user_error():
        main()
