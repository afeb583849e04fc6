# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Make a copy of an image folder in which no image is larger than needed.

The shorter side of each image becomes --short-side pixels; smaller images are
copied as they are. Folders and names stay, so that the copy takes the place of
the original in a config. The Exif orientation is applied. What training passes
over is left out. A run that was stopped goes on where it was, and images that
have changed since are copied anew.
"""
import argparse
import json
import os
import os.path as osp
import re
import signal
import sys
import time
from typing import Sequence

# Ctrl-C while libraries are imported, which takes seconds, just ends it.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler and __name__ == '__main__':
    signal.signal(signal.SIGINT, signal.SIG_DFL)
# Works from a checkout that is not installed, too.
sys.path.insert(0, osp.join(osp.dirname(osp.realpath(__file__)), '..'))

import autoprog_mm  # noqa: E402, F401  isort: skip  (before anything that imports torchvision)

from mmengine.utils import ProgressBar  # noqa: E402

from autoprog_mm.datasets.image_files import (  # noqa: E402
    IMAGE_TYPES,
    ImageFiles,
    describe_passed_over,
    find_image_files,
)
from autoprog_mm.datasets.prepare import (  # noqa: E402
    Outcome,
    Settings,
    is_current,
    prepare_all,
)
from autoprog_mm.launch import Parser, check_work_dir, exit_on_user_error  # noqa: E402
from autoprog_mm.utils import UserError, write_atomically  # noqa: E402
from autoprog_mm.utils.checks import check_int, check_number  # noqa: E402
from autoprog_mm.utils.names import listed  # noqa: E402

SETTINGS_FILE = 'prepared.json'
_UNFINISHED = re.compile(r'\.\d+\.tmp$')


def parse_args() -> argparse.Namespace:
    parser = Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', help='folder of the images, most often one folder a class')
    parser.add_argument('target', help='folder of the copy')
    parser.add_argument('--short-side', type=int, default=256, help='pixels of the shorter side')
    parser.add_argument('--quality', type=int, default=90, help='quality of JPEGs, 1 to 100')
    parser.add_argument(
        '--processes', type=int, default=len(os.sched_getaffinity(0))
        if hasattr(os, 'sched_getaffinity') else os.cpu_count())
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    found = check(args)
    names = found.files
    settings = Settings(args.short_side, args.quality)
    check_settings(args.target, settings, names)
    check_work_dir(args.target, 'target')
    remove_unfinished(args.target)
    write_atomically(
        osp.join(args.target, SETTINGS_FILE), json.dumps(settings._asdict(), indent=2) + '\n')
    for folder in sorted({osp.dirname(name) for name in names}):
        os.makedirs(osp.join(args.target, folder), exist_ok=True)

    left = [name for name in names
            if not is_current(osp.join(args.source, name), osp.join(args.target, name))]
    outcome, begin = Outcome(0, 0, []), time.perf_counter()
    if left:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        bar = ProgressBar(len(left))
        try:
            outcome = prepare_all(args.source, args.target, left, settings, args.processes,
                                  bar.update)
        except KeyboardInterrupt:
            print('\nStopped. The same command goes on.')
            return 128 + signal.SIGINT
        print()  # ends the line of the bar
    agree = report(args, found, left, outcome, time.perf_counter() - begin)
    return 0 if agree else 1


def check(args: argparse.Namespace) -> ImageFiles:
    """The images below the source.

    Raises:
        UserError: Names the argument that is wrong.
    """
    check_int('--short-side', args.short_side, most=65535)
    check_int('--processes', args.processes, most=1024)
    check_number('--quality', args.quality, 1, 100)
    if not osp.isdir(args.source):
        raise UserError(f'source: there is no folder {args.source!r}.')
    source, target = osp.realpath(args.source), osp.realpath(args.target)
    if osp.commonpath([source, target]) in (source, target):
        raise UserError(
            f'target ({args.target!r}) and source ({args.source!r}) must not lie in each other. '
            'Give a folder beside it.')
    found = find_image_files(args.source)
    if not found.files:
        raise UserError(
            f'source: the folder {args.source!r} has no images ({", ".join(IMAGE_TYPES)}).')
    return found


def check_settings(target: str, settings: Settings, names: Sequence[str]) -> None:
    """Raise an error if the target has files that this run would not make."""
    path = osp.join(target, SETTINGS_FILE)
    if not osp.isfile(path):
        found = next((name for name in names if osp.exists(osp.join(target, name))), None)
        if found is not None:
            raise UserError(
                f'target: {found!r} is in {target!r} already, but no {SETTINGS_FILE} that says '
                'how it was made. Give another target, or delete this one.')
        return
    with open(path, encoding='utf-8') as file:
        before = json.load(file)
    if before != settings._asdict():
        raise UserError(
            f'target: {target!r} was made with {before}, not with {settings._asdict()}. Give '
            'another target, or delete this one.')


def remove_unfinished(target: str) -> None:
    """Remove what a killed run has left half written."""
    for folder, _, files in os.walk(target):
        for file in files:
            if _UNFINISHED.search(file):
                os.remove(osp.join(folder, file))


def report(args: argparse.Namespace, found: ImageFiles, left: Sequence[str], outcome: Outcome,
           seconds: float) -> bool:
    """Print what was done, and whether source and target have the same images."""
    names = found.files
    print(f'{len(names)} images: {len(names) - len(left)} were there, {outcome.resized} resized '
          f'and {outcome.copied} copied as they are in {seconds:.1f} s.')
    failed = {name for name, _ in outcome.failed}
    before, after = (
        sum(osp.getsize(osp.join(root, name)) for name in names if name not in failed)
        for root in (args.source, args.target))
    if after:
        print(f'{before:,} bytes became {after:,}: {before - after:,} saved, {before / after:.2f} '
              f'to 1.')
    print(f'Passed over: {describe_passed_over(found.ignored, found.links) or "nothing"}.')
    if outcome.failed:
        print(f'No copy was made of {len(outcome.failed)} images:')
        for name, reason in outcome.failed:
            print(f'  {name}: {reason}')
    copies = find_image_files(args.target).files
    print(f'{len(names)} images in {args.source}, {len(copies)} in {args.target}.')
    more = sorted(set(copies) - set(names))
    if more:
        print(f'{len(more)} images of {args.target} are not, or no more, in {args.source}: '
              f'{listed(more)}. Delete them, or training uses them.')
    return set(copies) == set(names) - failed and not failed


if __name__ == '__main__':
    with exit_on_user_error():
        sys.exit(main())
