# Copyright (c) the autoprog_mm authors. All rights reserved.
import logging
import os.path as osp
import time
from dataclasses import astuple
from typing import Dict, Iterator, List, Mapping, Optional

import torch
from mmengine.dist import get_dist_info, is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import EpochBasedTrainLoop
from mmpretrain.registry import HOOKS, TASK_UTILS

from ...datasets.pipelines import ProgressivePipelines
from ...datasets.seeded import batch_size_of, draw_batches, seeded_dataloader
from ...growth.probe import labelled_batches, mean_losses
from ...growth.schedule import Stage, build_schedule, check_schedule
from ...growth.scoring import stage_candidates
from ...growth.search import OneShotSearch
from ...growth.subnet import Subnet
from ...models.data_preprocessor import ElasticDataPreprocessor
from ...models.elastic import ElasticBackbone
from ...planning.eta import Eta
from ...planning.forecast import Range
from ...planning.memory import saved_bytes
from ...record.ledger import RECORD_FILE, Ledger
from ...record.run_info import describe_run
from ...utils import derive_seed, seed_step
from ...utils.errors import UserError
from ...utils.ranks import check_ranks_agree, fingerprint
from ..accumulation import num_parts
from ..checkpoint import differing_parameters, pack, unpack
from ..loops import ResumableTrainLoop
from ..optimizers import MoGrowMixin
from ..wrappers import ElasticDistributedDataParallel
from .mogrow_ema_hook import MoGrowEMAHook

# Of what the hook keeps in checkpoints.
STATE_SCHEMA = 2
# On which the loss before and after a growth is compared, where no search has its own.
CHECKED_BATCHES = 4
PRECISIONS = ('highest', 'high', 'medium')


@HOOKS.register_module()
class AutoProgHook(Hook):
    """Says when a stage begins, when a search runs, and what is recorded.

    It needs an elastic backbone, a MoGrow optimizer wrapper, one
    ``ProgressiveRandomResizedCrop`` in each training pipeline and, for a
    search, ``ElasticDataPreprocessor``. It writes ``autoprog.json`` into the
    work directory, and makes all randomness of training a function of the
    seed and of where it is needed, so that a resumed run is exact.

    Args:
        num_stages (int): Number of stages K. 1 is the baseline: the full
            network from the start, with the same record. Defaults to 4.
        initial_scale (dict, optional): Share of the full ``depth`` and
            ``resolution`` that the first stage runs, each in (0, 1]. One that
            is left out does not grow.
            Defaults to ``dict(depth=0.5, resolution=0.5)``.
        regularization (dict, optional): Share of the full ``rand_augment``
            magnitude, ``random_erasing`` probability and ``drop_path`` rate
            that the first stage has, each in [0, 1]. One that is left out
            keeps its full value.
            Defaults to ``dict(rand_augment=0.5, random_erasing=0., drop_path=0.)``.
        resolution_divisor (int): Resolutions are multiples of it, in pixels.
            Defaults to 32.
        search (dict | None): Config of the search that chooses each stage's
            subnet. None is the manual schedule ("Prog").
            Defaults to ``dict(type='OneShotSearch')``.
        max_batch_per_step (int, optional): Images of one process that fit into
            memory in the full network. A larger batch is split, in the stages
            that need it: earlier ones need less memory for an image. With
            BatchNorm a split batch is not the same, since each part has its
            own statistics. Needs ``ResumableTrainLoop``. Defaults to None, no
            limit.
        max_growth_jump (float): By how much the loss (cross-entropy, in nats,
            of the online weights on the same training images) may rise at a
            growth; beyond it a warning names the operator. Defaults to 1.

    Raises:
        ValueError: Before training, for any of these that can't work.
    """

    priority = 'LOW'

    def __init__(self,
                 num_stages: int = 4,
                 initial_scale: Optional[Mapping[str, float]] = None,
                 regularization: Optional[Mapping[str, float]] = None,
                 resolution_divisor: int = 32,
                 search: Optional[dict] = dict(type='OneShotSearch'),  # noqa: B006
                 max_batch_per_step: Optional[int] = None,
                 max_growth_jump: float = 1.) -> None:
        if initial_scale is None:
            initial_scale = dict(depth=0.5, resolution=0.5)
        if regularization is None:
            regularization = dict(rand_augment=0.5, random_erasing=0., drop_path=0.)
        check_schedule(num_stages, initial_scale, regularization)
        if max_batch_per_step is not None and (
                isinstance(max_batch_per_step, bool) or not isinstance(max_batch_per_step, int)
                or max_batch_per_step < 1):
            raise UserError(
                f'max_batch_per_step of AutoProgHook must be an int of at least 1 or None, but got '
                f'{max_batch_per_step!r}.')
        if isinstance(max_growth_jump, bool) or not isinstance(max_growth_jump, (int, float)) \
                or not max_growth_jump >= 0:
            raise UserError(
                f'max_growth_jump of AutoProgHook must be a number of at least 0, but got '
                f'{max_growth_jump!r}.')
        self.max_batch_per_step = max_batch_per_step
        self.max_growth_jump = max_growth_jump
        self.num_stages = num_stages
        self.initial_scale = dict(initial_scale)
        self.regularization = dict(regularization)
        self.resolution_divisor = resolution_divisor
        # A single stage has nothing to search.
        self.search: Optional[OneShotSearch] = \
            TASK_UTILS.build(search) if search is not None and num_stages > 1 else None
        if self.search is not None and self.search.bounds.first_stage >= num_stages - 1:
            raise UserError(
                f'search.first_stage ({self.search.bounds.first_stage}) must be below '
                f'{num_stages - 1}: stages count from 0, and the last of the {num_stages} has '
                'nothing to search. Lower it, or set search=None.')

        self.ledger: Optional[Ledger] = None  # until a run trains
        self.stages: List[Stage] = []
        self._index = -1  # of the stage under way
        self._searching = False
        self._choice: Optional[Subnet] = None  # decided, in effect from the next epoch on
        self._reduced: Optional[tuple] = None  # what the model wrapper was built for
        self._loaded: Optional[dict] = None  # state to resume from
        self._weights_of: Optional[dict] = None  # state that came with weights to test

    # ------------------------------------------------------------- run begins

    def before_run(self, runner) -> None:
        """Take the config's ``compile`` over from mmengine, and set the precision of float32.

        mmengine would compile the whole training step, with mixing and the
        optimizer in it, which breaks into dozens of graphs. It has no key for
        what ``env_cfg.float32_matmul_precision`` says of CUDA: ``'highest'``,
        ``'high'`` (TF32) or ``'medium'``, see torch's function of this name.

        Args:
            runner (Runner): The runner.

        Raises:
            ValueError: If ``compile`` names a target, or the precision is
                unknown.
        """
        precision = runner.cfg.get('env_cfg', {}).get('float32_matmul_precision')
        if precision is not None:
            if precision not in PRECISIONS:
                raise UserError(
                    f'env_cfg.float32_matmul_precision must be one of {PRECISIONS}, but got '
                    f'{precision!r}.')
            if torch.cuda.is_available():
                torch.set_float32_matmul_precision(precision)
                # Convolutions have a switch of their own.
                torch.backends.cudnn.allow_tf32 = precision != 'highest'
        options = runner.cfg.get('compile')
        if not options:
            return
        options = {} if options is True else dict(options)
        if 'target' in options:
            raise UserError(
                f'compile.target ({options["target"]!r}) is not to be set: AutoProgHook has the '
                "backbone's forward pass compiled.")
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self._find_backbone(model).compile_forward(**options)
        runner.cfg.compile = None

    def before_train(self, runner) -> None:
        """Check that all parts fit together, and set them up.

        Args:
            runner (Runner): The runner.

        Raises:
            ValueError: If they don't.
        """
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise UserError(
                'AutoProgHook needs an EpochBasedTrainLoop, but train_cfg builds '
                f'{type(runner.train_loop).__name__}. Use train_cfg=dict(by_epoch=True, '
                'max_epochs=...).')
        if is_model_wrapper(runner.model) and \
                not isinstance(runner.model, ElasticDistributedDataParallel):
            raise UserError(
                "Distributed training with AutoProgHook needs model_wrapper_cfg="
                f"dict(type='mmpretrain.ElasticDistributedDataParallel'), but got "
                f'{type(runner.model).__name__}, which cannot change what it reduces.')
        self.wrapper = runner.model if is_model_wrapper(runner.model) else None
        self.model = runner.model if self.wrapper is None else self.wrapper.module
        self.backbone = self._find_backbone(self.model)
        self.optim_wrapper = runner.optim_wrapper
        if not isinstance(self.optim_wrapper, MoGrowMixin):
            raise UserError(
                'AutoProgHook needs optim_wrapper.type to be MoGrowOptimWrapper or '
                f'AmpMoGrowOptimWrapper, but got {type(self.optim_wrapper).__name__}, which '
                'cannot grow.')
        self.pipelines = ProgressivePipelines(runner.train_dataloader.dataset,
                                              self.backbone.full_subnet.resolution)
        if self.num_stages > 1:
            self.pipelines.warn_of_stock_transforms(self.regularization)
        if self.search is not None and not isinstance(self.model.data_preprocessor,
                                                      ElasticDataPreprocessor):
            raise UserError(
                "A search resizes batches and needs data_preprocessor.type to be "
                f"'ElasticDataPreprocessor', but got "
                f'{type(self.model.data_preprocessor).__name__}. Set it, or search=None.')
        self._build_schedule(runner.max_epochs)
        self._check_accumulation(runner)
        self._memory: Dict[Subnet, int] = {}  # bytes of one image
        if self.max_batch_per_step is not None:  # now, while all is awake
            full = self.backbone.full_subnet
            self._memory[full] = saved_bytes(self.model, full)
        for hook in runner.hooks:
            if isinstance(hook, EMAHook) and not isinstance(hook, MoGrowEMAHook):
                raise UserError(
                    f'{type(hook).__name__} would average what sleeps, and knows nothing of '
                    'growth. Use MoGrowEMAHook in its place.')

        rank, _ = get_dist_info()
        self.seed = runner.seed
        runner.train_loop.dataloader, self.sampler = seeded_dataloader(
            runner.train_dataloader, self.seed, rank)
        self._steps_per_epoch = len(runner.train_loop.dataloader)
        check_ranks_agree('seed, schedule and steps of an epoch',
                          [self.seed, self._schedule_as_lists(), self._steps_per_epoch])
        self.ledger = Ledger(type(self.backbone).__name__, self.backbone.full_subnet,
                             describe_run(runner))
        self.progress = self._build_progress(runner)
        if self._loaded is not None:
            self._resume(self._loaded)
            self._loaded = None
        self._record_path = osp.join(runner.work_dir, RECORD_FILE)
        self.ledger.open()

    @staticmethod
    def _find_backbone(model: torch.nn.Module) -> ElasticBackbone:
        backbone = getattr(model, 'backbone', None)
        if not isinstance(backbone, ElasticBackbone):
            raise UserError(
                'AutoProgHook needs an elastic model.backbone, such as ElasticDeiT, but got '
                f'{type(backbone).__name__}.')
        return backbone

    def _build_schedule(self, max_epochs: int) -> None:
        self.stages = build_schedule(
            self.num_stages,
            max_epochs,
            self.backbone.full_subnet,
            self.initial_scale,
            regularization=self.regularization,
            full_regularization=dict(
                self.pipelines.full_strength, drop_path=self.backbone.drop_path_rate),
            resolution_divisor=self.resolution_divisor
            if self.num_stages > 1 else self.backbone.resolution_step)
        self.backbone.min_depth = self.stages[0].subnet.depth
        for stage in self.stages:
            self.backbone.check_subnet(stage.subnet)
        for before, after in zip(self.stages, self.stages[1:]):
            self.backbone.check_growth(before.subnet, after.subnet)
        if self.search is not None:
            for stage in self.stages[self.search.bounds.first_stage:-1]:
                length = stage.end_epoch - stage.begin_epoch
                if self.search.epochs > length:
                    raise UserError(
                        f'search.epochs ({self.search.epochs}) must not exceed the length of a '
                        f'stage, but stage {stage.index} has {length} epochs. Lower it, or '
                        'num_stages, or raise max_epochs.')

    def _check_accumulation(self, runner) -> None:
        if self.max_batch_per_step is not None and \
                not isinstance(runner.train_loop, ResumableTrainLoop):
            raise UserError(
                "max_batch_per_step of AutoProgHook needs train_cfg.type='ResumableTrainLoop', but "
                f'train_cfg builds {type(runner.train_loop).__name__}.')
        every, steps = self.optim_wrapper._accumulative_counts, len(runner.train_dataloader)
        if steps % every:
            print_log(
                f'accumulative_counts ({every}) does not divide the {steps} steps of an epoch: the '
                'gradients that an epoch ends with, before an update is due, are dropped.',
                logger='current')

    def _build_progress(self, runner) -> Eta:
        loop = runner.train_loop
        val_loader = None if runner.val_loop is None else runner.val_loop.dataloader
        return Eta(
            self.stages,
            self._steps_per_epoch,
            self.backbone.flops,
            self.search,
            val_steps=0 if val_loader is None else len(val_loader),
            validates=lambda epoch: epoch >= loop.val_begin and (
                epoch % loop.val_interval == 0 or epoch == loop.max_epochs))

    # ----------------------------------------------------------------- epochs

    def before_train_epoch(self, runner) -> None:
        """Put a decision into effect, begin a stage, get a search ready.

        Args:
            runner (Runner): The runner.
        """
        self.ledger.switch('train')
        epoch = runner.epoch
        stage = next(s for s in self.stages if s.begin_epoch <= epoch < s.end_epoch)
        if self._choice is not None:
            self.optim_wrapper.shrink(self.backbone, self._choice)
            self._choice = None
        if stage.index != self._index:
            self._begin_stage(runner, stage)
        self._write_record()
        reduced = self.backbone.awake_slots, self._searching
        if self.wrapper is not None and reduced != self._reduced:
            self.wrapper.rebuild(find_unused_parameters=self._searching)
            self._reduced = reduced
        self._set_pixels(stage, self.backbone.awake_subnet.resolution)
        if self._searching:
            with self.ledger.on('search'):
                self._prepare_search(runner, stage)
        self.progress.begin_epoch()
        self.sampler.set_epoch(epoch)
        self._eval_steps = self.search.evaluation_steps(
            epoch - stage.begin_epoch, len(runner.train_dataloader)) if self._searching else []
        self.ledger.switch('data')

    def _set_pixels(self, stage: Stage, resolution: int) -> None:
        """Have the pipelines deliver what a stage, or its search, trains on."""
        strength = (self.stages[-1] if self._searching else stage).regularization
        self.backbone.drop_path_rate = strength['drop_path']
        self.pipelines.set_strength(strength)
        self.pipelines.set_resolution(resolution)

    def _begin_stage(self, runner, stage: Stage) -> None:
        self._index = stage.index
        current = self.backbone.awake_subnet
        if self.wrapper is not None:
            check_ranks_agree(f'the weights with which stage {stage.index} begins',
                              fingerprint(list(self.model.parameters())))
        candidates = stage_candidates(self.stages, stage.index, current,
                                      self.search and self.search.bounds)
        self._searching = len(candidates) > 1
        if self._searching:
            self.search.start(candidates)
        # While a search goes on, its deepest candidate is awake, and the
        # pipeline delivers the largest resolution.
        target = Subnet(
            max(c.depth for c in candidates), max(c.resolution for c in candidates))
        grows = stage.index > 0 and target != current
        operator = type(self.optim_wrapper.growth_operator).__name__ if grows else None
        self.ledger.begin_stage(stage, target, operator)
        title = (f'Stage {stage.index + 1}/{len(self.stages)}, epochs {stage.begin_epoch + 1} to '
                 f'{stage.end_epoch}: ')
        if grows:
            with self.ledger.on('growth'):
                title += self._grow(runner, stage, current, target, operator)
        else:
            title += f'runs {_text(target)}. '
        if stage.index == 0:
            self.optim_wrapper.shrink(self.backbone, target)
        print_log(
            title + (f'Searching among {", ".join(map(_text, candidates))}.'
                     if self._searching else ''), logger='current')

    def _grow(self, runner, stage: Stage, current: Subnet, target: Subnet, operator: str) -> str:
        """Grow, and compare the loss before and after on the same images."""
        self._set_pixels(stage, target.resolution)
        if self._searching:
            with self.ledger.on('search'):
                self._hold_batches(runner, stage)
            batches = self.search.batches[:CHECKED_BATCHES]
        else:
            batches = labelled_batches(self._draw_fixed(runner, stage, CHECKED_BATCHES))
        before = self._online_loss(batches, current)
        begin = time.perf_counter()
        seed_step(derive_seed(self.seed, 'growth', stage.index))
        self.optim_wrapper.grow(self.backbone, target)
        seconds = time.perf_counter() - begin
        after = self._online_loss(batches, target)
        self.ledger.record_growth(current, before, after)
        text = f'grew from {_text(current)} to {_text(target)} with {operator} in {seconds:.2f} s. '
        if before is None or after is None:
            return text + 'The loss is not compared, for images have not one label each. '
        runner.visualizer.add_scalars(
            {'autoprog/growth_loss_before': before, 'autoprog/growth_loss_after': after},
            step=runner.iter)
        if not after - before <= self.max_growth_jump:
            print_log(
                f'The loss on the same images went from {before:.4f} to {after:.4f} when '
                f'{operator} grew {_text(current)} to {_text(target)}, more than max_growth_jump '
                f'({self.max_growth_jump:g}) of AutoProgHook. Smaller steps (num_stages, '
                "initial_scale) or another growth operator, such as optim_wrapper.growth="
                "dict(type='IdentityInit'), may lose less.",
                logger='current', level=logging.WARNING)
        return text + f'Loss on the same images: {before:.4f} before, {after:.4f} after. '

    def _online_loss(self, batches: Optional[List[tuple]], subnet: Subnet) -> Optional[float]:
        if batches is None:
            return None
        weights = {name: param.detach() for name, param in self.model.named_parameters()}
        return mean_losses(self.model, self.optim_wrapper, batches, [subnet], weights)[0]

    def _draw_fixed(self, runner, stage: Stage, num_batches: int) -> Iterator[dict]:
        """Training batches of this rank that are a function of seed and stage."""
        loader = runner.train_dataloader
        rank, world_size = get_dist_info()
        generator = torch.Generator().manual_seed(derive_seed(self.seed, 'scoring', stage.index))
        order = torch.randperm(len(loader.dataset), generator=generator).tolist()
        num_samples = batch_size_of(loader) * min(num_batches, len(loader))
        return draw_batches(loader, self.sampler, order[rank::world_size][:num_samples],
                            'scoring', stage.index)

    def _hold_batches(self, runner, stage: Stage) -> None:
        if not self.search.batches:
            self.search.hold_batches(self._draw_fixed(runner, stage, self.search.eval_batches))

    def _prepare_search(self, runner, stage: Stage) -> None:
        self._hold_batches(runner, stage)
        if not self.search.losses[0]:
            self.search.evaluate(self.model, self.optim_wrapper)

    def after_train_epoch(self, runner) -> None:
        """Decide, if this was a search's last epoch, before it is saved.

        Args:
            runner (Runner): The runner.
        """
        self.ledger.switch('train')
        # Gradients that are still accumulating are of weights that a growth
        # replaces, and a resumed run would not have them.
        self.optim_wrapper.zero_grad()
        if self._searching:
            self.backbone.activate(None)
            self.model.data_preprocessor.resolution = None
            if runner.epoch + 1 == self.stages[self._index].begin_epoch + self.search.epochs:
                with self.ledger.on('search'):
                    self._decide(runner)
        self.ledger.switch('train')

    @property
    def has_decided(self) -> bool:
        """bool: Whether a search has decided what runs from the next epoch on."""
        return self._choice is not None

    def _decide(self, runner) -> None:
        self._choice, record = self.search.decide(self.model, self.optim_wrapper)
        self._searching = False
        self.ledger.record_decision(self._choice, record)
        self.ledger.switch('search')
        seconds = self.ledger.stages[-1]['seconds']['search']
        lines = [
            f'  {_text(Subnet(c["depth"], c["resolution"]))}  loss {c["loss"]:.4f}  '
            f'{c["flops"] / 1e9:.4g} GFLOPs' +
            (f'  {c["time"] * 1e3:.2f} ms' if c['time'] is not None else '') +
            f'  score {c["score"]:.4g}{"  <- chosen" if c["chosen"] else ""}'
            for c in record['candidates']
        ]
        print_log(
            f'Search of stage {self._index + 1}, w = {record["w"]:.4f}, {seconds:.1f} s besides '
            'training:\n' + '\n'.join(lines), logger='current')
        chosen = next(c for c in record['candidates'] if c['chosen'])
        runner.visualizer.add_scalars(
            {'autoprog/search_w': record['w'], 'autoprog/search_seconds': seconds,
             **{f'autoprog/search_{key}': chosen[key] for key in ('depth', 'resolution', 'loss')}},
            step=runner.iter)

    @property
    def stage_index(self) -> int:
        """int: The stage under way, from 0."""
        return self._index

    def time_left(self, runner, steps: int) -> Optional[Range]:
        """Seconds to the end of the run.

        Args:
            runner (Runner): The runner.
            steps (int): Steps of the epoch that are done.

        Returns:
            Range | None: None in the first steps of a process.
        """
        candidates = self.search.candidates if self._searching else [self.backbone.awake_subnet]
        return self.progress.left(runner.epoch, steps, candidates)

    # ------------------------------------------------------------------ steps

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Derive the step's randomness, and in a search its subnet.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Index of the step in its epoch.
            data_batch (dict): The collated batch.
        """
        self.ledger.switch('train')
        if self._searching:
            candidate = self.search.draw(self.seed, runner.iter)
            self.backbone.activate(candidate)
            self.model.data_preprocessor.resolution = candidate.resolution
        if self.max_batch_per_step is not None:
            runner.train_loop.num_parts = self._num_parts(len(data_batch['inputs']))
        rank, _ = get_dist_info()
        seed_step(derive_seed(self.seed, 'step', runner.iter, rank))

    def _num_parts(self, batch_size: int) -> int:
        if batch_size <= self.max_batch_per_step:
            return 1
        active = self.backbone.running_subnet
        if active not in self._memory:
            self._memory[active] = saved_bytes(self.model, active)
        share = self._memory[active] / self._memory[self.backbone.full_subnet]
        return num_parts(batch_size, self.max_batch_per_step, share)

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Score the candidates of a search, when it is time.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Index of the step in its epoch.
            data_batch (dict, optional): Not used.
            outputs (dict, optional): Not used.
        """
        if batch_idx + 1 in self._eval_steps:
            with self.ledger.on('search'):
                self.search.evaluate(self.model, self.optim_wrapper)
        self.progress.tick(self.backbone.running_subnet, self.ledger.seconds('train', 'data'))
        self.ledger.switch('data')

    # ------------------------------------------------------ validation, end

    def before_val(self, runner) -> None:
        """Book on validation in a run that trains, else see :meth:`before_test`.

        Args:
            runner (Runner): The runner.
        """
        if self.ledger is None:
            self.before_test(runner)
            return
        # Only now, when a checkpoint has what a search has decided: what the
        # file says is never decided again.
        self._write_record()
        self.ledger.switch('val')
        self._val_seconds = self.ledger.seconds('val')
        runner.message_hub.update_scalar('val/train_seconds', self.ledger.train_seconds)

    def after_val_epoch(self, runner, metrics=None) -> None:
        """Book on training again, before the best checkpoint is saved.

        Args:
            runner (Runner): The runner.
            metrics (dict, optional): Not used.
        """
        if self.ledger is not None:
            self.ledger.switch('train')
            self.progress.validated(self.backbone.awake_subnet.depth,
                                    self.ledger.seconds('val') - self._val_seconds)

    def before_test(self, runner) -> None:
        """Run what was awake when the weights under test were saved.

        Args:
            runner (Runner): The runner.
        """
        state, self._weights_of = self._weights_of, None
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        backbone = getattr(model, 'backbone', None)
        if state is None or not isinstance(backbone, ElasticBackbone):
            return
        subnet = Subnet(*state['subnet'])
        backbone.min_depth = state['stages'][0][2]
        backbone.set_subnet(subnet)
        if subnet.depth < backbone.full_subnet.depth:
            print_log(
                f'The checkpoint is of an unfinished run: {_text(subnet)} of '
                f'{_text(backbone.full_subnet)} was awake, and is what is tested.',
                logger='current')

    def after_train(self, runner) -> None:
        """Finish the record.

        Args:
            runner (Runner): The runner.
        """
        self.ledger.finished = True
        self.ledger.close()
        self._write_record()

    def _write_record(self) -> None:
        if is_main_process():
            self.ledger.write(self._record_path)

    # ------------------------------------------------------------ checkpoints

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Save the hook's state, and make the whole checkpoint plain.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): What is about to be saved.
        """
        checkpoint['autoprog'] = dict(
            schema=STATE_SCHEMA,
            model=type(self.backbone).__name__,
            stages=self._schedule_as_lists(),
            steps_per_epoch=self._steps_per_epoch,
            sampler_seed=getattr(self.sampler.sampler, 'seed', None),
            index=self._index,
            subnet=astuple(self.backbone.awake_subnet),
            choice=self._choice and astuple(self._choice),
            searching=self._searching,
            search=None if self.search is None else self.search.state_dict(),
            ledger=self.ledger.state_dict())
        pack(checkpoint)

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Make the checkpoint mmengine's again; on resume, take the hook's state.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): What was loaded.

        Raises:
            ValueError: On resume, if the checkpoint has no such state.
        """
        unpack(checkpoint)
        if not runner._resume:
            self._weights_of = checkpoint.get('autoprog')
            return
        expected = ['optimizer'] + (runner.param_schedulers is not None) * ['param_schedulers']
        missing = [key for key in expected if key not in checkpoint]
        if missing:
            raise UserError(
                f'The checkpoint to resume from has no {" and no ".join(missing)}: best '
                'checkpoints are saved without. Resume from an epoch_*.pth, or use load_from '
                'without resume to start from its weights.')
        if 'autoprog' not in checkpoint:
            raise UserError(
                'The checkpoint to resume from was saved without AutoProgHook, so what was awake '
                'is not known. Use load_from without resume to start from its weights.')
        state = checkpoint['autoprog']
        if state['schema'] != STATE_SCHEMA:
            raise UserError(
                f'The checkpoint has AutoProg state of schema {state["schema"]}; this version '
                f'reads schema {STATE_SCHEMA}. Resume with the version that it was made with, or '
                'use load_from without resume to start from its weights.')
        # mmengine would only warn, and train on with what fits.
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        differing = differing_parameters(model.state_dict(), checkpoint['state_dict'])
        if differing is not None:
            raise UserError(
                f'The checkpoint is of another model, a {state["model"]}: {differing}. Resume with '
                'the model that it was made with.')
        self._loaded = state

    def _resume(self, state: dict) -> None:
        mine = self._schedule_as_lists()
        if state['stages'] != mine:
            raise UserError(
                'The checkpoint was made with another schedule. Stages as [begin epoch, end '
                f'epoch, depth, resolution]: {state["stages"]} there, {mine} here. Resume with '
                'the same num_stages, initial_scale, max_epochs and model.')
        if (state['search'] is None) != (self.search is None):
            raise UserError(
                f'The checkpoint was made {"without" if self.search else "with"} a search and '
                f'AutoProgHook now has {"one" if self.search else "search=None"}; set the same.')
        if state['steps_per_epoch'] != self._steps_per_epoch:
            raise UserError(
                f'The checkpoint was made with {state["steps_per_epoch"]} steps an epoch, but now '
                f'there are {self._steps_per_epoch}. Resume with the same data, batch size and '
                'number of processes.')
        if state['sampler_seed'] is not None:
            self.sampler.sampler.seed = state['sampler_seed']
        self._index = state['index']
        self._searching = state['searching']
        self._choice = Subnet(*state['choice']) if state['choice'] else None
        if self.search is not None:
            self.search.load_state_dict(state['search'])
        self.ledger.load_state_dict(state['ledger'])
        self.optim_wrapper.shrink(self.backbone, Subnet(*state['subnet']))

    def _schedule_as_lists(self) -> List[List[int]]:
        return [[s.begin_epoch, s.end_epoch, *astuple(s.subnet)] for s in self.stages]


def _text(subnet: Subnet) -> str:
    return f'depth {subnet.depth} at {subnet.resolution} px'
