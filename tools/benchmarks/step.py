# Copyright (c) the autoprog_mm authors. All rights reserved.
"""How fast the training steps of a schedule's subnets are, against what their FLOPs promise.

Subnets take turns, so that a slow moment of the machine hits all. The share of
the ideal is the speed-up over the full network, divided by the ratio of FLOPs.
On CUDA the full network is compared with timm's model of the same size, too.
"""
import argparse
from statistics import median

from common import (  # isort: skip  (before torch, for torchvision's sake)
    build_model, find_device, make_batch, read_config, read_stages, seconds, wrap_optimizer,
    write_json)

import timm
import torch
import torch.nn.functional as F

from autoprog_mm.growth import Subnet
from autoprog_mm.launch import Parser, exit_on_user_error

# A multiply-add in the forward pass is one more for each of the two gradients.
FLOPS_OF_STEP = 6


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument('config', nargs='?', default='configs/autoprog/deit-s_in1k.py')
    parser.add_argument('--batch-size', type=int, default=32)
    parser.add_argument('--rounds', type=int, default=5, help='turns of each subnet')
    parser.add_argument('--steps', type=int, default=1, help='timed steps of a turn')
    parser.add_argument('--compile', action='store_true', help='compile the backbone')
    parser.add_argument('--timm', help='name of the model of timm to compare with')
    parser.add_argument('--peak-tflops', type=float, help="the device's, to give shares of it")
    parser.add_argument('--out', help='JSON file for the figures')
    return parser.parse_args()


class Ours:
    """Training steps of a subnet of the config's model."""

    def __init__(self, cfg, device: torch.device, compiled: bool) -> None:
        self.model = build_model(cfg, device)
        self.wrapper = wrap_optimizer(cfg, self.model, device)
        self.stages = read_stages(cfg, self.model)
        self.backbone = self.model.backbone
        self.backbone.min_depth = self.stages[0].subnet.depth
        if compiled:
            self.backbone.forward = torch.compile(self.backbone.forward)

    def run(self, subnet: Subnet, batch: dict) -> None:
        self.model.train_step(batch, self.wrapper)

    def prepare(self, subnet: Subnet) -> None:
        # Up and down, as no run does, so that subnets can take turns.
        self.backbone.set_subnet(subnet)
        self.wrapper.shrink(self.backbone, subnet)


class Timms:
    """Training steps of timm's model, under the same optimizer and precision."""

    def __init__(self, name: str, cfg, device: torch.device, compiled: bool) -> None:
        settings = {key: value for key, value in cfg.optim_wrapper.optimizer.items()
                    if key != 'type'}
        self.model = timm.create_model(name).to(device).train()
        self.forward = torch.compile(self.model) if compiled else self.model
        self.optimizer = torch.optim.AdamW(self.model.parameters(), **settings)
        self.device = device

    def run(self, batch: dict) -> None:
        images = batch['inputs'].to(self.device).float().div_(255)
        labels = torch.cat([sample.gt_label for sample in batch['data_samples']]).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == 'cuda'):
            scores = self.forward(images)
            loss = F.cross_entropy(scores[0] if isinstance(scores, tuple) else scores, labels)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def main() -> None:
    args = parse_args()
    device, name = find_device()
    cfg = read_config(args.config)
    ours = Ours(cfg, device, args.compile)
    subnets = list(dict.fromkeys(stage.subnet for stage in ours.stages))
    batches = {s.resolution: make_batch(args.batch_size, s.resolution) for s in subnets}
    full = ours.backbone.full_subnet
    times = {subnet: [] for subnet in subnets}
    rival = Timms(args.timm, cfg, device, args.compile) if args.timm else None
    rival_times = []
    for _ in range(args.rounds):
        for subnet in subnets:
            ours.prepare(subnet)
            batch = batches[subnet.resolution]
            seconds(lambda s=subnet, b=batch: ours.run(s, b), device)  # warms up
            times[subnet] += [seconds(lambda s=subnet, b=batch: ours.run(s, b), device)
                              for _ in range(args.steps)]
        if rival is not None:
            batch = batches[full.resolution]
            seconds(lambda b=batch: rival.run(b), device)
            rival_times += [seconds(lambda b=batch: rival.run(b), device)
                            for _ in range(args.steps)]
    step = {subnet: median(times[subnet]) for subnet in subnets}
    flops = {subnet: ours.backbone.flops(subnet) for subnet in subnets}
    rows = []
    print(f'{args.config}, batch {args.batch_size}, {name}, medians of '
          f'{args.rounds * args.steps} steps')
    print(f'{"subnet":>9} {"step":>9} {"images/s":>9} {"GFLOPs":>7} {"speed-up":>9} {"ideal":>6} '
          f'{"share":>6}' + ('  of peak' if args.peak_tflops else ''))
    for subnet in subnets:
        speed_up, ideal = step[full] / step[subnet], flops[full] / flops[subnet]
        row = dict(depth=subnet.depth, resolution=subnet.resolution, seconds=step[subnet],
                   images_per_second=args.batch_size / step[subnet], flops=flops[subnet],
                   speed_up=speed_up, ideal=ideal, share=speed_up / ideal)
        text = (f'{subnet.depth:>5}x{subnet.resolution:<3} {step[subnet]:>8.4f}s '
                f'{row["images_per_second"]:>9.1f} {flops[subnet] / 1e9:>7.2f} '
                f'{speed_up:>8.2f}x {ideal:>5.2f}x {row["share"]:>6.1%}')
        if args.peak_tflops:
            row['share_of_peak'] = FLOPS_OF_STEP * flops[subnet] * args.batch_size / \
                step[subnet] / (args.peak_tflops * 1e12)
            text += f'  {row["share_of_peak"]:>7.1%}'
        print(text)
        rows.append(row)
    epochs = [(stage.end_epoch - stage.begin_epoch, stage.subnet) for stage in ours.stages]
    whole = sum(n for n, _ in epochs) * step[full] / sum(n * step[s] for n, s in epochs)
    print(f'The manual schedule is {whole:.2f} times as fast as the full network from the start.')
    result = dict(vars(args), device=name, subnets=rows, schedule_speed_up=whole)
    if rival is not None:
        result['timm_seconds'] = median(rival_times)
        print(f"timm's {args.timm}: {result['timm_seconds']:.4f}s, ours at full size takes "
              f'{step[full] / result["timm_seconds"]:.3f} times as long')
    write_json(args.out, result)


if __name__ == '__main__':
    with exit_on_user_error():
        main()
