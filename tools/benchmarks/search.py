# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What share of a whole run the searches' own work takes: scoring and timing.

Times, in turns, a training step of each stage's subnet and the scoring of one
batch by all candidates of each search, as the hook does it, and multiplies by
how often a run of the config does either. The stages are those of the manual
schedule, from which the candidates of the next search follow.
"""
import argparse
from statistics import median

from common import (  # isort: skip  (before torch, for torchvision's sake)
    build_model, find_device, make_batch, read_config, read_stages, seconds, wrap_optimizer,
    write_json)

from mmpretrain.registry import TASK_UTILS

from autoprog_mm.growth.scoring import stage_candidates
from autoprog_mm.launch import Parser, exit_on_user_error


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument('config', nargs='?', default='configs/autoprog/deit-s_in1k.py')
    parser.add_argument('--batch-size', type=int, default=32)
    parser.add_argument('--steps-per-epoch', type=int, default=1251, help="ImageNet's at 1024")
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--out', help='JSON file for the figures')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    device, name = find_device()
    cfg = read_config(args.config)
    model = build_model(cfg, device)
    wrapper = wrap_optimizer(cfg, model, device)
    stages, backbone = read_stages(cfg, model), model.backbone
    backbone.min_depth = stages[0].subnet.depth
    settings = cfg.custom_hooks[0].search
    searches = {}
    for stage in stages[:-1]:
        current = stages[max(0, stage.index - 1)].subnet
        candidates = stage_candidates(stages, stage.index, current)
        if len(candidates) > 1:
            searches[stage.index] = TASK_UTILS.build(
                dict(settings, eval_batches=1, rule='trend'))
            searches[stage.index].begin(candidates)
    batches = {s.subnet.resolution: make_batch(args.batch_size, s.subnet.resolution)
               for s in stages}
    scoring, timing = {i: [] for i in searches}, {i: [] for i in searches}
    steps = {stage.index: [] for stage in stages}
    for _ in range(args.rounds):
        for stage in stages:
            backbone.set_subnet(stage.subnet)
            wrapper.shrink(backbone, stage.subnet)
            batch = batches[stage.subnet.resolution]
            steps[stage.index].append(seconds(lambda b=batch: model.train_step(b, wrapper), device))
        backbone.set_subnet(backbone.full_subnet)
        for index, search in searches.items():
            largest = max(c.resolution for c in search.candidates)
            search.hold_batches(lambda number, size=largest: [make_batch(args.batch_size, size)])
            scoring[index].append(seconds(lambda s=search: s.evaluate(model, wrapper), device))
            timing[index].append(seconds(lambda s=search: s.decide(model, wrapper), device))
            search.begin(search.candidates)
    batches_scored, own, total = settings.get('eval_batches', 50), 0., 0.
    print(f'{args.config}, batch {args.batch_size}, {name}, medians of {args.rounds}')
    for stage in stages:
        epochs = stage.end_epoch - stage.begin_epoch
        training = median(steps[stage.index]) * epochs * args.steps_per_epoch
        work = 0.
        if stage.index in searches:
            search = searches[stage.index]
            evaluations = 1 + search.evals[0] + (search.epochs - 1) * search.evals[1]
            work = evaluations * batches_scored * median(scoring[stage.index]) + \
                median(timing[stage.index]) * (search.cost == 'time')
        print(f'stage {stage.index + 1}: training {training:>10.0f} s, search {work:>8.0f} s')
        own, total = own + work, total + training + work
    print(f"The searches' own work takes {own / total:.2%} of the run.")
    write_json(args.out, dict(vars(args), device=name, search=own, total=total,
                              share=own / total))


if __name__ == '__main__':
    with exit_on_user_error():
        main()
