# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Say what a run of a config will do, without training it.

The config is checked as a training would: everything is built and put
together, up to the first step. What is printed comes from multiply-adds, or,
with --measure, from steps on this machine.
"""
import argparse
import os.path as osp
import signal
import sys
from datetime import timedelta
from functools import partial
from typing import List

# Ctrl-C while libraries are imported, which takes seconds, just ends it.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler and __name__ == '__main__':
    signal.signal(signal.SIGINT, signal.SIG_DFL)
# Works from a checkout that is not installed, too.
sys.path.insert(0, osp.join(osp.dirname(osp.realpath(__file__)), '..'))

import autoprog_mm  # noqa: E402, F401  isort: skip  (before anything that imports torchvision)

import torch  # noqa: E402

from autoprog_mm.apis.plan import Plan, make_plan  # noqa: E402
from autoprog_mm.growth import Subnet  # noqa: E402
from autoprog_mm.launch import (  # noqa: E402
    OptionsAction,
    Parser,
    add_speedup,
    exit_on_user_error,
    prepare_config,
    read_config,
)
from autoprog_mm.planning.outlook import LARGE_SEARCH_SHARE, stage_costs  # noqa: E402
from autoprog_mm.report.colors import LIGHT  # noqa: E402
from autoprog_mm.report.schedule import PARTS, Band, Line, plot_schedule  # noqa: E402
from autoprog_mm.report.style import picture_file  # noqa: E402
from autoprog_mm.utils import UserError  # noqa: E402
from autoprog_mm.utils.checks import check_int  # noqa: E402

_DTYPES = dict(bfloat16=torch.bfloat16, float16=torch.float16)


def parse_args() -> argparse.Namespace:
    parser = Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='train config file path')
    parser.add_argument(
        '--processes', type=int, default=1, help='processes (GPUs) that will train')
    parser.add_argument(
        '--samples', type=int, help="training images, where the data isn't on this machine")
    parser.add_argument(
        '--measure', action='store_true', help='time training steps on this machine')
    add_speedup(parser)
    parser.add_argument('--out', help='draw the schedule into this file (.png, .svg or .pdf)')
    parser.add_argument(
        '--cfg-options', nargs='+', action=OptionsAction, help='as those of tools/train.py')
    return parser.parse_args()


def read_plan(args: argparse.Namespace) -> Plan:
    check_int('--processes', args.processes)
    check_int('--samples', args.samples, optional=True)
    cfg = read_config(args.config)
    dtype = _DTYPES.get(cfg.get('optim_wrapper', {}).get('dtype'))
    cfg = prepare_config(cfg, argparse.Namespace(
        config=args.config, work_dir=None, launcher='none', amp=False, no_pin_memory=False,
        speedup=args.speedup, cfg_options=args.cfg_options))
    return make_plan(cfg, args.processes, args.samples, dtype, args.measure)


def write(plan: Plan) -> List[str]:
    """The lines to print."""
    lines = [
        f'{plan.model}, {plan.full.depth} slots at up to {plan.full.resolution} px; '
        f'{plan.epochs} epochs of {plan.steps_per_epoch} steps, {plan.samples} images, '
        f'{plan.batch_size} an update ({plan.step_batch} a step of a process).']
    lines += [f'Note: {note}' for note in plan.notes]
    lines.append('')
    for stage, candidates in zip(plan.stages, plan.candidates):
        names = ', '.join(map(str, candidates))
        lines.append(
            f'Stage {stage.index + 1}, epochs {stage.begin_epoch + 1} to {stage.end_epoch}: ' +
            (f'a search of {plan.search_epochs} epoch{"s" if plan.search_epochs > 1 else ""}, that '
             f'may come to {names}.' if len(candidates) > 1 else f'{names}.'))
    lines += ['', *_spending(plan)]
    lines += ['', f'{"depth x px":>10}  {"awake":>8}  {"GFLOPs":>7}  {"of full":>7}  '
              f'{"memory":>9}' + (f'  {"step":>9}' if plan.seconds else '')]
    for subnet, cost in sorted(plan.subnets.items(), key=lambda item: item[1].flops):
        share = _cost(plan, subnet) / _cost(plan, plan.full)
        lines.append(
            f'{subnet!s:>10}  {cost.parameters / 1e6:>6.2f} M  {cost.flops / 1e9:>7.3g}  '
            f'{share:>7.1%}  {cost.memory / 2**30:>6.2f} GB' +
            (f'  {cost.seconds:>8.4f}s' if plan.seconds else ''))
    by = 'measured steps' if plan.seconds else 'multiply-adds'
    low, high = plan.speed_up
    lines += ['', f'Speed-up of training against the full network from the start, by {by}: ' +
              (f'{low:.2f}' if high - low < 0.005 else
               f'{low:.2f} to {high:.2f}, as the searches choose ({plan.manual_speed_up:.2f} by '
               'the manual schedule)') + '.']
    if plan.course.speedup is not None:
        lines.append(
            f'Promised: {plan.course.speedup:g}, by {plan.budget}; the {plan.course.epochs} '
            f'epochs of the recipe pass in {plan.epochs}.' + (
                '' if plan.search_epochs == 0 else ' Whatever searches choose takes that time.'))
    if plan.search_share:
        lines.append(
            f"The searches' own work, scoring and timing, is up to {plan.search_share:.1%} of the "
            'run.' +
            (' Lower search.eval_batches or search.evals of AutoProgHook.'
             if plan.search_share > LARGE_SEARCH_SHARE else ''))
    if plan.seconds:
        times = [str(timedelta(seconds=round(s))) for s in plan.seconds]
        lines.append('All steps on this machine: ' + ' to '.join(dict.fromkeys(times)) + '.')
    return lines


def _spending(plan: Plan) -> List[str]:
    """What each stage spends, by its row of the manual schedule."""
    lines = [f'{"stage":>5}  {"depth x px":>10}  {"epochs":>6}  {"images":>11}  {"compute":>7}  '
             'learning rate']
    shares = stage_costs(plan.course, partial(_cost, plan))
    rates = plan.rates or [None] * len(shares)
    for stage, share, ends in zip(plan.stages, shares, rates):
        epochs = stage.end_epoch - stage.begin_epoch
        lines.append(
            f'{stage.index + 1:>5}  {stage.subnet!s:>10}  {epochs:>6}  '
            f'{epochs * plan.samples:>11}  {share:>7.1%}  ' +
            ('as validations go' if ends is None else f'{ends[0]:.3g} to {ends[1]:.3g}'))
    return lines


def _cost(plan: Plan, subnet: Subnet) -> float:
    mine = plan.subnets[subnet]
    return mine.seconds if plan.seconds else mine.flops


def draw(plan: Plan, path: str) -> None:
    """Draw depth, resolution and cost over the epochs, as bands where choices are open."""
    def cost(subnet: Subnet) -> float:
        return 100 * _cost(plan, subnet) / _cost(plan, plan.full)

    parts = {**PARTS, 'Cost of a step in % of the full network': cost}
    manual = [(s.begin_epoch, s.end_epoch, s.subnet) for s in plan.stages]
    with picture_file(path, len(parts), 5.5) as axes:
        plot_schedule(
            axes, parts, [plan.full],
            lines=[Line('no growth', LIGHT['baseline'], 4.5, [(0, plan.epochs, plan.full)]),
                   Line('manual schedule', LIGHT['run'], 2, manual)],
            bands=[Band(s.begin_epoch, s.end_epoch, candidates)
                   for s, candidates in zip(plan.stages, plan.candidates) if len(candidates) > 1],
            band_label='open to the search', band_color=LIGHT['search'])
        axes[-1].set_xlabel('Epochs')


def main() -> None:
    args = parse_args()
    plan = read_plan(args)
    print(f'{args.config}: can train.')
    print('\n'.join(write(plan)))
    if args.out:
        try:
            draw(plan, args.out)
        except (OSError, ValueError) as error:  # no such folder, or no such format
            raise UserError(f'--out {args.out}: {error}') from None
        print(f'Picture: {args.out}')


if __name__ == '__main__':
    with exit_on_user_error():
        main()
