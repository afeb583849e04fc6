# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Work directories written by hand, so that what a report says can be worked out."""
import json
from pathlib import Path

ACCOUNTS = ('data', 'train', 'search', 'growth', 'val')
# Losses on a trend of w = 0.5 would be 5, 2.5 and 1.25: the first is twice
# that, the second half of it.
SEARCH = dict(
    epochs=1,
    w=0.5,
    candidates=[
        dict(depth=2, resolution=16, time=0.01, flops=1e6, losses=[10.], loss=10., score=1.,
             chosen=False),
        dict(depth=2, resolution=32, time=0.04, flops=4e6, losses=[1.25], loss=1.25, score=0.25,
             chosen=True),
        dict(depth=4, resolution=32, time=0.16, flops=8e6, losses=[1.25], loss=1.25, score=0.5,
             chosen=False),
        dict(depth=4, resolution=16, time=0.08, flops=2e6, losses=[None], loss=None, score=None,
             chosen=False),
    ])
RUN = dict(
    config='tiny_<b>',
    seed=3,
    epochs=4,
    batch_size=8,
    steps_per_epoch=4,
    processes=1,
    device='CPU, 2 threads',
    samples=32,
    dataset=dict(type='ImageNet', data_root='data/tiny', split='train'),
    versions=dict(torch='2.13.0'))


def stage(index, begin, end, depth, resolution, seconds, operator=None, growth=None, search=None):
    return dict(
        index=index, begin_epoch=begin, end_epoch=end,
        subnet=dict(depth=depth, resolution=resolution), operator=operator,
        seconds=dict(zip(ACCOUNTS, seconds)), growth=growth, search=search)


def grown_stages():
    """Two stages of 2 epochs, of 10 and 20 training seconds."""
    return [
        stage(0, 0, 2, 2, 32, (1., 7., 2., 0., 3.), search=SEARCH),
        stage(1, 2, 4, 4, 32, (2., 17.5, 0., 0.5, 3.), 'MoGrow',
              {'from': dict(depth=2, resolution=32), 'loss_before': 0.75, 'loss_after': 1.}),
    ]


def baseline_stages():
    """One stage of 60 training seconds."""
    return [stage(0, 0, 4, 4, 32, (5., 55., 0., 0., 4.))]


def write_record(work_dir: Path, stages, finished=True, run=RUN, **changes) -> None:
    seconds = sum(s for one in stages for account, s in one['seconds'].items()
                  if account != 'val')
    record = dict(schema=1, model='ElasticDeiT', full=dict(depth=4, resolution=32), run=run,
                  stages=stages, train_seconds=seconds, finished=finished)
    work_dir.mkdir(parents=True, exist_ok=True)
    (work_dir / 'autoprog.json').write_text(json.dumps({**record, **changes}))


def train_row(step, loss, seconds=None, steps_per_epoch=4):
    row = dict(loss=loss, lr=0.1, epoch=(step - 1) // steps_per_epoch + 1, iter=step, step=step)
    return row if seconds is None else {**row, 'autoprog/train_seconds': seconds}


def val_row(epoch, seconds, top1):
    return {'train_seconds': seconds, 'accuracy/top1': top1, 'step': epoch}


def write_scalars(work_dir: Path, rows, start='20260101_000000', tail='') -> None:
    folder = work_dir / start / 'vis_data'
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'scalars.json').write_text(''.join(json.dumps(row) + '\n' for row in rows) + tail)


def write_run(work_dir: Path, kind='grown', top1=90., **record) -> str:
    """A finished run of 4 epochs, ``'grown'`` or ``'baseline'``."""
    stages = grown_stages() if kind == 'grown' else baseline_stages()
    total = 30. if kind == 'grown' else 60.
    write_record(work_dir, **{'stages': stages, **record})
    rows = []
    for epoch in range(1, 5):
        rows += [train_row(4 * epoch - k, 2. / (4 * epoch - k), total * (epoch - k / 4) / 4)
                 for k in (2, 0)]
        # The best is not the last.
        rows.append(val_row(epoch, total * epoch / 4, 95. if epoch == 3 else top1 - 4 + epoch))
    write_scalars(work_dir, rows)
    return str(work_dir)
