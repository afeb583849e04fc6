# Copyright (c) the autoprog_mm authors. All rights reserved.
"""The parts of a run that grows, found and checked once."""
from dataclasses import dataclass
from typing import List, Mapping, Optional

import torch.nn as nn
from mmengine.hooks import CheckpointHook, EMAHook, SyncBuffersHook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import EpochBasedTrainLoop
from mmpretrain.engine.hooks import SwitchRecipeHook
from mmpretrain.registry import HOOKS

from ..datasets.pipelines import ProgressivePipelines
from ..growth.schedule import Stage, build_schedule
from ..models.data_preprocessor import ElasticDataPreprocessor
from ..models.elastic import ElasticBackbone
from ..utils.errors import UserError
from ..utils.modules import unwrap
from .optimizers import MoGrowMixin
from .rehearsal import rehearse_validation
from .run_settings import check_ranks_share, schedulers_of
from .schedulers import CycleCosineLR
from .wrappers import ElasticDistributedDataParallel


@dataclass(frozen=True)
class RunParts:
    """What grows, what feeds it, and what updates it.

    Args:
        model (Module): The classifier, without a model wrapper.
        wrapper (ElasticDistributedDataParallel | None): Its model wrapper.
        backbone (ElasticBackbone): The model's backbone.
        optim_wrapper (MoGrowMixin): The optimizer wrapper.
        pipelines (ProgressivePipelines): All training pipelines.
        cooldown_epochs (int): Last epochs of the recipe, which stages do not
            divide. Defaults to 0.
    """

    model: nn.Module
    wrapper: Optional[ElasticDistributedDataParallel]
    backbone: ElasticBackbone
    optim_wrapper: MoGrowMixin
    pipelines: ProgressivePipelines
    cooldown_epochs: int = 0

    @classmethod
    def of(cls, runner, searches: bool) -> 'RunParts':
        """Find the parts of a run, and check that they fit together.

        Args:
            runner (Runner): One that is about to train.
            searches (bool): Whether it searches, and so resizes batches.

        Raises:
            UserError: If they don't; names the config's key and the way out.
        """
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise UserError(
                'AutoProgHook needs an EpochBasedTrainLoop, but train_cfg builds '
                f'{type(runner.train_loop).__name__}. Use train_cfg=dict(by_epoch=True, '
                'max_epochs=...).')
        if runner._randomness_cfg.get('diff_rank_seed'):
            raise UserError(
                'randomness.diff_rank_seed=True: the draws of ranks differ anyway, and what they '
                'must agree on follows from one seed. Leave it out.')
        if is_model_wrapper(runner.model) and \
                not isinstance(runner.model, ElasticDistributedDataParallel):
            raise UserError(
                "Distributed training with AutoProgHook needs model_wrapper_cfg="
                f"dict(type='mmpretrain.ElasticDistributedDataParallel'), but got "
                f'{type(runner.model).__name__}, which cannot change what it reduces.')
        model = unwrap(runner.model)
        backbone = find_backbone(model)
        if not isinstance(runner.optim_wrapper, MoGrowMixin):
            raise UserError(
                'AutoProgHook needs optim_wrapper.type to be MoGrowOptimWrapper or '
                f'AmpMoGrowOptimWrapper, but got {type(runner.optim_wrapper).__name__}, which '
                'cannot grow.')
        pipelines = ProgressivePipelines(
            runner.train_dataloader.dataset, backbone.full_subnet.resolution)
        if searches and not isinstance(model.data_preprocessor, ElasticDataPreprocessor):
            raise UserError(
                "A search resizes batches and needs data_preprocessor.type to be "
                f"'ElasticDataPreprocessor', but got "
                f'{type(model.data_preprocessor).__name__}. Set it, or search=None.')
        _align_accumulation(runner)
        _check_hooks(runner)
        check_ranks_share(runner)
        rehearse_validation(runner)
        wrapper = runner.model if is_model_wrapper(runner.model) else None
        return cls(model, wrapper, backbone, runner.optim_wrapper, pipelines,
                   _cooldown_epochs(runner))

    def build_schedule(self, max_epochs: int, num_stages: int, initial_scale: Mapping[str, float],
                       regularization: Mapping[str, float],
                       resolution_divisor: int) -> List[Stage]:
        """The schedule of these parts, which the backbone can run.

        Args:
            max_epochs (int): Epochs of the run.
            num_stages (int): See :class:`AutoProgHook`.
            initial_scale (dict): See :class:`AutoProgHook`.
            regularization (dict): See :class:`AutoProgHook`.
            resolution_divisor (int): See :class:`AutoProgHook`.

        Raises:
            UserError: If there is none, or the backbone cannot run it.
        """
        backbone = self.backbone
        if num_stages > 1:
            self.pipelines.warn_of_stock_transforms(regularization)
        stages = build_schedule(
            num_stages, max_epochs, backbone.full_subnet, initial_scale,
            regularization=regularization,
            full_regularization=dict(
                self.pipelines.full_strength, drop_path=backbone.drop_path_rate),
            resolution_divisor=resolution_divisor if num_stages > 1 else backbone.resolution_step,
            cooldown_epochs=self.cooldown_epochs)
        backbone.wake_all()  # loaded weights may have put some to sleep
        backbone.min_depth = stages[0].subnet.depth
        for stage in stages:
            backbone.check_subnet(stage.subnet)
        for before, after in zip(stages, stages[1:]):
            backbone.check_growth(before.subnet, after.subnet)
        return stages


def _cooldown_epochs(runner) -> int:
    """Epochs after the cycle of a ``CycleCosineLR``. With a budget, which knows none, 0."""
    steps, cycle = len(runner.train_dataloader), runner.max_epochs
    for scheduler in schedulers_of(runner):
        if isinstance(scheduler, CycleCosineLR):
            end = scheduler.end - scheduler.cooldown
            cycle = min(cycle, max(1, end if scheduler.by_epoch else end // steps))
    return runner.max_epochs - cycle


def find_backbone(model: nn.Module, hook: str = 'AutoProgHook') -> ElasticBackbone:
    """The elastic backbone of a model.

    Args:
        model (Module): Without a model wrapper.
        hook (str): Who asks, for the message. Defaults to 'AutoProgHook'.

    Raises:
        UserError: If it has none.
    """
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, ElasticBackbone):
        raise UserError(
            f'{hook} needs an elastic model.backbone, such as ElasticDeiT, but got '
            f'{type(backbone).__name__}.')
    return backbone


def _check_hooks(runner) -> None:
    """Refuse hooks that do not go with growth, and keys that nobody would look at."""
    names = ('CompileHook', 'MoGrowEMAHook', 'SafeCheckpointHook')
    compiles, averages, saves = (HOOKS.get(f'mmpretrain.{name}') for name in names)
    for hook in runner.hooks:
        if isinstance(hook, EMAHook) and not isinstance(hook, averages):
            raise UserError(
                f'{type(hook).__name__} would average what sleeps, and knows nothing of '
                'growth. Use MoGrowEMAHook in its place.')
        if isinstance(hook, CheckpointHook) and not isinstance(hook, saves):
            raise UserError(
                f'{type(hook).__name__} saves objects that torch.load refuses, so that a run with '
                "AutoProgHook could not be resumed. Set default_hooks.checkpoint="
                "dict(type='SafeCheckpointHook'), or None for no checkpoints.")
        # It sets an attribute of the dataset that it finds, which only wraps the one with images.
        if isinstance(hook, SwitchRecipeHook) and any(
                'train_pipeline' in recipe for recipe in hook.schedule.values()):
            raise UserError(
                'SwitchRecipeHook with train_pipeline would switch nothing, for AutoProgHook has '
                'pipelines follow its stages. Leave train_pipeline out of its schedule.')
    if is_model_wrapper(runner.model) and _has_own_statistics(runner.model) and not any(
            isinstance(hook, SyncBuffersHook) for hook in runner.hooks):
        raise UserError(
            'The statistics of BatchNorm differ from rank to rank, so that each would validate '
            "another network. Add dict(type='SyncBuffersHook') to custom_hooks.")
    if any(isinstance(hook, compiles) for hook in runner.hooks):
        return
    for key, value in (('compile', runner.cfg.get('compile')),
                       ('env_cfg.float32_matmul_precision',
                        runner.cfg.get('env_cfg', {}).get('float32_matmul_precision'))):
        if value:
            raise UserError(
                f"{key} ({value!r}) needs dict(type='CompileHook') in custom_hooks, beside "
                'AutoProgHook. Add it, or leave the key out.')


def _has_own_statistics(model: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(
        module, nn.SyncBatchNorm) for module in model.modules())


def _align_accumulation(runner) -> None:
    every, steps = runner.optim_wrapper._accumulative_counts, len(runner.train_dataloader)
    runner.optim_wrapper.steps_per_epoch = steps
    if steps % every:
        print_log(
            f'accumulative_counts ({every}) does not divide the {steps} steps of an epoch: its '
            f'last update is of {steps % every}.', logger='current')
