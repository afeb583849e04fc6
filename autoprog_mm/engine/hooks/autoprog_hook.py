# Copyright (c) the autoprog_mm authors. All rights reserved.
from functools import partial
from typing import List, Mapping, Optional, Sequence

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmpretrain.registry import HOOKS, TASK_UTILS

from ...growth.schedule import Stage, check_schedule
from ...growth.scoring import stage_candidates
from ...growth.search import OneShotSearch
from ...growth.subnet import Subnet
from ...planning.forecast import Range
from ...utils import Randomness, UserError, seed_step
from ...utils.checks import check_number
from ...utils.ranks import check_ranks_agree, fingerprint
from .. import resume
from ..checkpoint import request_checkpoint, unpack
from ..grower import Grower
from ..loaded_weights import check_all_there, check_loaded, never_resume_a_test, trains
from ..run_budget import RunBudget
from ..run_parts import RunParts
from ..run_settings import run_settings
from ..stage_inputs import StageInputs
from ..stage_record import StageRecord

SCALE = dict(depth=0.5, resolution=0.5)
REGULARIZATION = dict(rand_augment=0.5, random_erasing=0., drop_path=0.)
SEARCH = dict(type='OneShotSearch')


@HOOKS.register_module()
class AutoProgHook(Hook):
    """Trains a network in stages that grow.

    It says when a stage begins and when a search runs; others grow, search and
    record. It needs an elastic backbone, a MoGrow optimizer wrapper, one
    ``ProgressiveRandomResizedCrop`` in each training pipeline and, for a
    search, ``ElasticDataPreprocessor``. It writes ``autoprog.json`` into the
    work directory. All randomness of training is derived from the seed.

    Args:
        num_stages (int): Number of stages. 1 is the baseline: the full network
            from the start, with the same record. Defaults to 4.
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
        speedup (float, optional): The run costs this part of what the recipe,
            whose epochs ``max_epochs`` are, would cost at full size; at least
            1. Schedulers and intervals follow consumed compute, and the
            number of epochs is what that makes. With ``num_stages=1``, a
            shorter baseline. Defaults to None: the paper's equal epochs.
        stage_shares (Sequence[float], optional): Weight of each stage in that
            budget. Defaults to None, equal ones.
        budget (str): What compute is: ``'time'`` of training steps that are
            timed before the run, or ``'flops'``, multiply-adds, which are the
            same on any machine. Defaults to ``'time'``.
        max_growth_jump (float): Rise of the loss at a growth (cross-entropy on
            the same training images) beyond which a warning names the
            operator. Defaults to 1.
        max_batch_per_step (None): Moved to :class:`MicroBatchHook`.

    Raises:
        UserError: Before training, for any of these that can't work.
    """

    priority = 'LOW'

    def __init__(self,
                 num_stages: int = 4,
                 initial_scale: Optional[Mapping[str, float]] = None,
                 regularization: Optional[Mapping[str, float]] = None,
                 resolution_divisor: int = 32,
                 search: Optional[dict] = SEARCH,
                 speedup: Optional[float] = None,
                 stage_shares: Optional[Sequence[float]] = None,
                 budget: str = 'time',
                 max_growth_jump: float = 1.,
                 max_batch_per_step: None = None) -> None:
        if max_batch_per_step is not None:
            raise UserError(
                f"max_batch_per_step of AutoProgHook has moved: put dict(type='MicroBatchHook', "
                f'max_batch_per_step={max_batch_per_step!r}) into custom_hooks.')
        initial_scale = SCALE if initial_scale is None else initial_scale
        regularization = REGULARIZATION if regularization is None else regularization
        check_schedule(num_stages, initial_scale, regularization)
        check_number('max_growth_jump of AutoProgHook', max_growth_jump)
        self.schedule = dict(num_stages=num_stages, initial_scale=initial_scale,
                             regularization=regularization, resolution_divisor=resolution_divisor)
        self.budget = RunBudget(speedup, stage_shares, budget, num_stages)
        self.max_growth_jump = max_growth_jump
        # A single stage has nothing to search.
        self.search: Optional[OneShotSearch] = \
            TASK_UTILS.build(search) if search is not None and num_stages > 1 else None
        self.stages: List[Stage] = []
        self.rows: List[List[int]] = []  # of the schedule, before searches
        self.record: Optional[StageRecord] = None  # until a run trains
        self.stage_index = -1  # of the stage under way
        self.choice: Optional[Subnet] = None  # decided, in effect from the next epoch on
        self._state: Optional[dict] = None  # state of a checkpoint, to resume from

    @property
    def searching(self) -> bool:  # whether a search is under way
        return self.search is not None and self.search.searching

    def before_run(self, runner) -> None:
        """Before a checkpoint is read."""
        never_resume_a_test(runner)
        if trains(runner):
            self.budget.take_over(runner)

    def before_train(self, runner) -> None:
        """Find all parts, check that they fit together, and set them up."""
        state, self._state = self._state, None
        self.parts = parts = RunParts.of(runner, searches=self.search is not None)
        self.stages = parts.build_schedule(runner.max_epochs, **self.schedule)
        self.randomness = Randomness(runner.seed, get_rank())
        self.inputs = StageInputs(runner, parts, self.randomness)
        self.budget.begin(runner, parts, self.inputs, self.stages, self.search, state)
        self.rows = resume.schedule_rows(self.stages)
        self.settings = run_settings(runner)
        if self.search is not None:
            self.search.check_stages(self.stages)
        check_ranks_agree('seed, schedule and steps of an epoch', [
            runner.seed, self.rows, self.inputs.num_steps])
        self.grower = Grower(parts, self.inputs, self.randomness)
        self.record = StageRecord(runner, parts, self.search, self.budget, self.max_growth_jump)
        if state is not None:
            resume.restore(self, runner, state)
        else:
            check_loaded(parts, self.stages, self.search)
        self.record.ledger.open()

    def before_train_epoch(self, runner) -> None:
        """Put a decision into effect, begin a stage, get a search ready."""
        self.record.switch('train')
        parts = self.parts
        stage = next(s for s in self.stages if s.begin_epoch <= runner.epoch < s.end_epoch)
        if self.choice is not None:
            parts.optim_wrapper.shrink(parts.backbone, self.choice)
            self.choice = None
        if stage.index != self.stage_index:
            self._begin_stage(stage)
        self.budget.begin_epoch(runner)
        self.record.write()
        if parts.wrapper is not None:
            parts.wrapper.follow(parts.backbone.awake_slots, self.searching)
        self._apply_stage_inputs(stage, parts.backbone.awake_subnet)
        if self.searching:
            with self.record.on('search'):
                self.search.begin_epoch(
                    parts.model, parts.optim_wrapper, runner.epoch - stage.begin_epoch,
                    self.inputs.num_steps, partial(self.inputs.draw, stage.index))
        self.inputs.sampler.set_epoch(runner.epoch)
        self.record.begin_steps()

    def _begin_stage(self, stage: Stage) -> None:
        self.stage_index = stage.index
        parts, current = self.parts, self.parts.backbone.awake_subnet
        if parts.wrapper is not None:
            check_ranks_agree(f'the weights with which stage {stage.index} begins',
                              fingerprint(list(parts.model.parameters())))
        candidates = stage_candidates(self.stages, stage.index, current, self.search is not None)
        self.budget.course.begin_stage(stage.index, candidates)
        stage = self.stages[stage.index]
        # While a search goes on, its deepest candidate is awake, and the
        # pipeline delivers the largest resolution.
        target = Subnet.covering(candidates)
        grows = stage.index > 0 and target != current
        self.record.begin_stage(
            stage, target, candidates, self.grower.operator if grows else None)
        if len(candidates) > 1:
            self.search.begin(candidates)
        self._apply_stage_inputs(stage, target)
        if stage.index == 0:
            parts.optim_wrapper.shrink(parts.backbone, target)
        elif grows:
            with self.record.on('growth'):
                self.record.growth(self.grower.grow(stage.index, target))

    def _apply_stage_inputs(self, stage: Stage, subnet: Subnet) -> None:
        # A search trains candidates as large as the full network.
        strongest = self.stages[-1] if self.searching else stage
        self.inputs.apply(strongest.regularization, subnet.resolution)

    def after_train_epoch(self, runner) -> None:
        """Decide, if this was a search's last epoch, before it is saved."""
        self.record.switch('train')
        if self.searching:
            with self.record.on('search'):
                self.choice = self.search.end_epoch(
                    self.parts.model, self.parts.optim_wrapper,
                    runner.epoch - self.stages[self.stage_index].begin_epoch,
                    self.budget.course.buys(self.stage_index, self.search.candidates))
                if self.choice is not None:
                    self.budget.course.decide(self.stage_index, self.choice)
                    self.record.decision(self.stage_index, self.choice, self.search.record)
                    request_checkpoint(runner)

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Derive the step's randomness, and in a search its subnet."""
        self.record.switch('train')
        if self.searching:
            self.search.before_step(self.parts.model, self.randomness.subnet(runner.iter))
        seed_step(self.randomness.step(runner.iter))

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if self.searching:
            with self.record.on('search'):
                self.search.after_step(self.parts.model, self.parts.optim_wrapper, batch_idx + 1)
        self.record.step_done(self.parts.backbone.running_subnet)
        self.budget.move(runner.iter + 1)

    def time_left(self, runner, steps: int) -> Optional[Range]:
        """Seconds to the run's end, after ``steps`` steps of the epoch; see ``Eta``."""
        candidates = self.search.candidates if self.searching else \
            [self.parts.backbone.awake_subnet]
        return self.record.eta.left(runner.epoch, steps, candidates)

    def before_val(self, runner) -> None:
        if self.record is not None:
            self.record.begin_validation()

    def after_val_epoch(self, runner, metrics=None) -> None:
        if self.record is not None:
            self.record.end_validation(self.parts.backbone.awake_subnet.depth)

    def after_train(self, runner) -> None:
        self.record.finish(self.parts.backbone.awake_subnet)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        checkpoint[resume.STATE] = resume.pack_state(self)

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        unpack(checkpoint)  # or mmengine would run its config, without SafeCheckpointHook
        if not trains(runner):
            check_all_there(runner, checkpoint['state_dict'])
        elif runner._resume:
            self._state = resume.find_state(checkpoint, runner, self.budget)
