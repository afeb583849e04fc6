# Copyright (c) the autoprog_mm authors. All rights reserved.
"""A small config, prepared as by a tool."""
import argparse

from mmengine.config import Config

from autoprog_mm.launch import prepare_config

TRAIN_ARGS = dict(
    config='configs/prog/deit-s_prog_in1k.py', work_dir=None, resume=None, amp=False,
    no_validate=False, auto_scale_lr=False, no_pin_memory=False, no_persistent_workers=False,
    cfg_options=None, launcher='none')
TEST_ARGS = dict(
    config='configs/prog/deit-s_prog_in1k.py', checkpoint='epoch_1.pth', work_dir=None, amp=False,
    no_pin_memory=False, cfg_options=None, launcher='none')


def make_config(**changes):
    return Config({
        **dict(
            model=dict(type='ImageClassifier', backbone=dict(type='ElasticDeiT')),
            train_dataloader=dict(batch_size=2, num_workers=4, dataset=dict(type='MNIST5k')),
            val_dataloader=dict(batch_size=2, num_workers=0, dataset=dict(type='MNIST5k')),
            test_dataloader=dict(batch_size=2, num_workers=1, dataset=dict(type='MNIST5k')),
            train_cfg=dict(by_epoch=True, max_epochs=3),
            val_cfg=dict(),
            test_cfg=dict(),
            val_evaluator=dict(type='Accuracy'),
            test_evaluator=dict(type='Accuracy'),
            optim_wrapper=dict(type='MoGrowOptimWrapper', optimizer=dict(type='AdamW'))),
        **changes
    })


def prepare(cfg=None, **args):
    return prepare_config(cfg or make_config(), argparse.Namespace(**{**TRAIN_ARGS, **args}))
