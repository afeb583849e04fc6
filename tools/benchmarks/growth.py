# Copyright (c) the autoprog_mm authors. All rights reserved.
"""How long a growth takes, in training steps.

Grows the network of a config through its manual schedule on random images, in
several processes, and times each growth (the wrapper's grow() and the new
reducer) and the training steps before and after it.
"""
import argparse
import os.path as osp
import socket
import time
from statistics import median
from typing import Callable, List

from common import (  # isort: skip  (before torch, for torchvision's sake)
    build_model, make_batch, read_config, read_stages, wrap_optimizer, write_json)

import torch
import torch.distributed as dist

from autoprog_mm.engine import ElasticDistributedDataParallel
from autoprog_mm.launch import Parser, exit_on_user_error


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument('--config', default='configs/autoprog/deit-b_in1k.py')
    parser.add_argument('--ranks', type=int, default=2, help='number of processes')
    parser.add_argument('--batch-size', type=int, default=2, help='images of each process')
    parser.add_argument('--steps', type=int, default=3, help='steps to time in each stage')
    parser.add_argument('--repeats', type=int, default=3, help='times to grow from the beginning')
    parser.add_argument('--out', help='JSON file for the figures')
    return parser.parse_args()


def timed(action: Callable[[], object], device: torch.device) -> float:
    """Seconds until all ranks have done something."""
    dist.barrier()
    begin = time.perf_counter()
    action()
    if device.type == 'cuda':
        torch.cuda.synchronize()
    dist.barrier()
    return time.perf_counter() - begin


def run(rank: int, port: int, args: argparse.Namespace) -> None:
    cuda = torch.cuda.is_available()
    device = torch.device('cuda', rank) if cuda else torch.device('cpu')
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group('nccl' if cuda else 'gloo', f'tcp://127.0.0.1:{port}', rank=rank,
                            world_size=args.ranks)
    torch.set_num_threads(max(1, torch.get_num_threads() // args.ranks))
    rows = [grow_through(args, device) for _ in range(args.repeats)]
    if rank == 0:
        report(args, list(zip(*rows)), device)
    dist.destroy_process_group()


def grow_through(args: argparse.Namespace, device: torch.device) -> List[dict]:
    """Figures of each growth of the schedule."""
    cfg = read_config(args.config)
    model = build_model(cfg, device)
    backbone, stages = model.backbone, read_stages(cfg, model)
    wrapper = ElasticDistributedDataParallel(model)
    optim_wrapper = wrap_optimizer(cfg, wrapper, device)
    backbone.min_depth = stages[0].subnet.depth
    optim_wrapper.shrink(backbone, stages[0].subnet)
    wrapper.rebuild()

    def steps(resolution: int) -> float:
        batch = make_batch(args.batch_size, resolution)
        seconds = [timed(lambda: wrapper.train_step(batch, optim_wrapper), device)
                   for _ in range(1 + args.steps)]
        return median(seconds[1:])  # the first one warms up

    rows, before = [], steps(stages[0].subnet.resolution)
    for stage in stages[1:]:
        growth = timed(lambda s=stage: optim_wrapper.grow(backbone, s.subnet), device)
        rebuild = timed(wrapper.rebuild, device)
        after = steps(stage.subnet.resolution)
        rows.append(dict(depth=stage.subnet.depth, resolution=stage.subnet.resolution,
                         grow=growth, rebuild=rebuild, step_before=before, step_after=after))
        before = after
    return rows


def report(args: argparse.Namespace, growths: List[tuple], device: torch.device) -> None:
    print(f'{osp.basename(args.config)}, {args.ranks} processes on {device.type}, '
          f'{args.batch_size} images each, medians of {args.repeats}')
    print(f'{"to":>9} {"grow":>9} {"reducer":>9} {"step before":>12} {"step after":>11} '
          f'{"growth / step before":>21}')
    result = []
    for repeats in growths:
        row = {key: median(r[key] for r in repeats) for key in repeats[0]}
        row['ratio'] = (row['grow'] + row['rebuild']) / row['step_before']
        result.append(row)
        print(f'{row["depth"]:>5.0f}x{row["resolution"]:<3.0f} {row["grow"]:>8.3f}s '
              f'{row["rebuild"]:>8.3f}s {row["step_before"]:>11.3f}s {row["step_after"]:>10.3f}s '
              f'{row["ratio"]:>21.2f}')
    write_json(args.out, dict(vars(args), device=device.type, growths=result))


def main() -> None:
    args = parse_args()
    read_config(args.config)  # so that a mistake is told here
    with socket.socket() as own:
        own.bind(('127.0.0.1', 0))
        port = own.getsockname()[1]
    torch.multiprocessing.start_processes(  # CUDA allows no forks
        run, (port, args), args.ranks,
        start_method='spawn' if torch.cuda.is_available() else 'fork')


if __name__ == '__main__':
    with exit_on_user_error():
        main()
