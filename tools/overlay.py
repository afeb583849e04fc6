# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Turn a stock mmpretrain config of a ViT into one that grows.

For example::

    python tools/overlay.py mmpretrain::deit/deit-base_16xb64_in1k.py my-deit-base.py --scale 0.5

The new file is small: it is based on the stock one and has what differs.
"""
import argparse
import os
import os.path as osp
import sys

# Works from a checkout that is not installed, too.
sys.path.insert(0, osp.join(osp.dirname(osp.abspath(__file__)), '..'))

import autoprog_mm  # noqa: E402  isort: skip  (before anything that imports torchvision)

from mmengine.config import Config  # noqa: E402

from autoprog_mm.apis.config_text import config_text  # noqa: E402
from autoprog_mm.launch import exit_on_user_error, parse  # noqa: E402
from autoprog_mm.utils import UserError, write_atomically  # noqa: E402


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'stock', metavar='STOCK_CONFIG', help='a file, or PACKAGE::PATH of an installed package')
    parser.add_argument('out', metavar='OUT.py', help='the file to write')
    parser.add_argument(
        '--scale',
        type=float,
        default=0.5,
        help='share of the full depth and resolution in the first stage; defaults to 0.5')
    parser.add_argument('--depth-scale', type=float, help='another one for the depth')
    parser.add_argument('--resolution-scale', type=float, help='another one for the resolution')
    parser.add_argument('--num-stages', type=int, default=4, help='defaults to 4')
    parser.add_argument(
        '--resolution-divisor',
        type=int,
        help='resolutions are multiples of it; by default 32, or what fits patches and image')
    search = parser.add_mutually_exclusive_group()
    search.add_argument(
        '--search-epochs',
        type=int,
        default=2,
        help='epochs of search at the start of each stage but the last; defaults to 2')
    search.add_argument(
        '--no-search', action='store_true', help='grow by the manual schedule instead')
    parser.add_argument('--force', action='store_true', help='overwrite OUT.py')
    return parse(parser)


def main() -> None:
    args = parse_args()
    out = args.out
    if not out.endswith('.py'):
        raise UserError(f'OUT.py must end with .py, but is {out!r}.')
    if osp.exists(out) and not args.force:
        raise UserError(f'OUT.py: the file {out!r} exists. Choose another name, or --force.')
    if '::' in args.stock:
        base, loaded = args.stock, args.stock
    else:
        loaded = osp.abspath(args.stock)
        base = osp.relpath(loaded, osp.dirname(osp.abspath(out)))
    try:
        # As a base, for mmengine knows the names of packages there only.
        stock = Config.fromstring(f'_base_ = {loaded!r}', '.py')
    except Exception as error:  # configs are programs, which can raise anything
        raise UserError(
            f'STOCK_CONFIG: {args.stock!r} cannot be read: {type(error).__name__}: {error}') \
            from error
    scale = {name: getattr(args, f'{name}_scale') for name in ('depth', 'resolution')}
    scale = {name: args.scale if value is None else value for name, value in scale.items()}
    search = None if args.no_search else dict(type='OneShotSearch', epochs=args.search_epochs)
    cfg = autoprog_mm.overlay(
        stock, scale, num_stages=args.num_stages, search=search,
        resolution_divisor=args.resolution_divisor)
    hook = cfg.custom_hooks[0]
    title = (f'{osp.basename(args.stock)} with AutoProg (arXiv 2203.14509), made by '
             f'tools/overlay.py:\n{args.num_stages} stages, '
             f'{"the manual schedule" if search is None else "with a search"}, initial scale '
             f'{hook.initial_scale.depth} of the depth and {hook.initial_scale.resolution} of the '
             'resolution.\n\nTime:     not measured\nTop-1:    not measured')
    try:
        os.makedirs(osp.dirname(osp.abspath(out)), exist_ok=True)
        write_atomically(out, config_text(base, stock, cfg, title))
    except OSError as error:
        raise UserError(f'OUT.py: {out!r} cannot be written: {error.strerror}.') from error
    print(f'Wrote {out}. Train it with: python tools/train.py {out}')


if __name__ == '__main__':
    with exit_on_user_error():
        main()
