# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Turn a checkpoint of a finished run into one that timm or mmpretrain loads."""
import argparse
import os.path as osp
import sys

# Works from a checkout that is not installed, too.
sys.path.insert(0, osp.join(osp.dirname(osp.abspath(__file__)), '..'))

import autoprog_mm  # noqa: E402, F401  isort: skip  (before anything that imports torchvision)

from autoprog_mm.export.checkpoint import FORMATS, export_checkpoint  # noqa: E402
from autoprog_mm.launch import exit_on_user_error, parse  # noqa: E402


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Turn a checkpoint of a finished run into one that timm or mmpretrain loads. '
        'It is loaded there and compared before it is written. Nothing in the checkpoint is run.')
    parser.add_argument('checkpoint', metavar='CKPT', help='checkpoint of the last stage')
    parser.add_argument('out', metavar='OUT', help='the file to write')
    parser.add_argument('--format', choices=FORMATS, required=True, help='the library')
    parser.add_argument(
        '--config', help='config file of the run, for checkpoints that do not say what their model '
        'is built of: of other libraries, or of older versions')
    return parse(parser)


def main() -> None:
    args = parse_args()
    export = export_checkpoint(args.checkpoint, args.out, args.format, args.config)
    print(f'Wrote {export.path}, which {args.format} loads strictly.')
    print(f'Largest difference of logits: {export.difference:.3g} (allowed: {export.allowed:.3g})')
    if export.images:
        options = ', '.join(f'{name}={value!r}' for name, value in export.images.items())
        print(f"Images, as options of mmpretrain's ClsDataPreprocessor: {options}")
    print('Load it with:')
    print('\n'.join(export.code))


if __name__ == '__main__':
    with exit_on_user_error():
        main()
