# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What a run tells of its stages: in the record, in the log, and to visualizers."""
import logging
import os.path as osp
from functools import partial
from typing import ContextManager, Dict, Optional, Sequence

from mmengine.dist import is_main_process, master_only
from mmengine.logging import print_log
from mmengine.visualization import LocalVisBackend

from ..growth.schedule import Stage
from ..growth.search import OneShotSearch
from ..growth.subnet import Subnet
from ..planning.eta import Eta
from ..record.ledger import RECORD_FILE, Ledger
from ..record.run_info import describe_run
from .grower import GrowthResult
from .loops import validates
from .run_budget import RunBudget
from .run_parts import RunParts


class StageRecord:
    """The only caller of ledger, log lines and scalars of a run's stages.

    Args:
        runner (Runner): One that is about to train.
        parts (RunParts): Its parts.
        search (OneShotSearch | None): Its search.
        budget (RunBudget): Its budget.
        max_growth_jump (float): Rise of the loss at a growth beyond which a
            warning is logged.
    """

    def __init__(self, runner, parts: RunParts, search: Optional[OneShotSearch],
                 budget: RunBudget, max_growth_jump: float) -> None:
        self._runner = runner
        self._budget = budget
        self._stages = stages = budget.course.stages
        self._max_growth_jump = max_growth_jump
        self._path = osp.join(runner.work_dir, RECORD_FILE)
        self._val_begin = 0.
        self.ledger = Ledger(
            type(parts.backbone).__name__, parts.backbone.full_subnet, describe_run(runner))
        loop = runner.train_loop
        self.eta = Eta(
            stages, len(loop.dataloader), parts.backbone.flops, search,
            val_steps=0 if runner.val_loop is None else len(runner.val_loop.dataloader),
            validates=partial(validates, loop), budgeted=budget.speedup is not None)

    # ------------------------------------------------------------------- time

    def switch(self, account: str) -> None:
        """Book what comes on another account of the ledger."""
        self.ledger.switch(account)

    def on(self, account: str) -> ContextManager[None]:
        """Context that books on an account of the ledger."""
        return self.ledger.on(account)

    def begin_steps(self) -> None:
        """Book on waiting for an epoch's first batch."""
        self.eta.begin_epoch()
        self.switch('data')

    def step_done(self, subnet: Subnet) -> None:
        """Tell the ETA of a step that trained ``subnet``, and wait for the next batch."""
        self.eta.tick(subnet, self.ledger.seconds('train', 'data'))
        self.switch('data')

    def begin_validation(self) -> None:
        """Write the record, and book on validation.

        Only now a checkpoint has what a search has decided: what the file says
        is never decided again.
        """
        self.write()
        self.switch('val')
        self._val_begin = self.ledger.seconds('val')
        self._runner.message_hub.update_scalar('val/train_seconds', self.ledger.train_seconds)

    def end_validation(self, depth: int) -> None:
        """Book on training again, and tell the ETA of a validation at ``depth``."""
        self.switch('train')
        self.eta.validated(depth, self.ledger.seconds('val') - self._val_begin)

    # ----------------------------------------------------------------- stages

    def begin_stage(self, stage: Stage, target: Subnet, candidates: Sequence[Subnet],
                    operator: Optional[str]) -> None:
        """Enter a stage, before it grows.

        Args:
            stage (Stage): The stage.
            target (Subnet): What it wakes.
            candidates (Sequence[Subnet]): What it chooses from; a single one
                without a search.
            operator (str | None): What it grows with, if it grows.
        """
        self.ledger.begin_stage(stage, target, operator)
        runs = f'{target} (depth x pixels)' if len(candidates) == 1 else \
            f'a search among {", ".join(map(str, candidates))} (depth x pixels)'
        print_log(
            f'Stage {stage.index + 1}/{len(self._stages)}, epochs {stage.begin_epoch + 1} to '
            f'{stage.end_epoch}: {runs}.', logger='current')

    def growth(self, growth: GrowthResult) -> None:
        """Enter the growth with which the stage has begun, and judge it."""
        before, after = growth.loss_before, growth.loss_after
        self.ledger.record_growth(growth.before, before, after)
        text = (f'Grew {growth.before} to {growth.after} with {growth.operator} in '
                f'{growth.seconds:.2f} s. ')
        if before is None or after is None:
            print_log(f'{text}The loss is not compared, for images have not one label each.',
                      logger='current')
            return
        print_log(f'{text}Loss on the same images: {before:.4f} before, {after:.4f} after.',
                  logger='current')
        self._add_scalars(
            {'autoprog/growth_loss_before': before, 'autoprog/growth_loss_after': after})
        if not after - before <= self._max_growth_jump:
            print_log(
                f'The loss on the same images went from {before:.4f} to {after:.4f} when '
                f'{growth.operator} grew {growth.before} to {growth.after}, more than '
                f'max_growth_jump ({self._max_growth_jump:g}) of AutoProgHook. Smaller steps '
                '(num_stages, initial_scale) or another growth operator, such as '
                "optim_wrapper.growth=dict(type='IdentityInit'), may lose less.",
                logger='current', level=logging.WARNING)

    def decision(self, stage: int, choice: Subnet, search: dict) -> None:
        """Enter what a search has chosen.

        Args:
            stage (int): The stage under way.
            choice (Subnet): The choice.
            search (dict): The search's part of the record.
        """
        self.ledger.record_decision(choice, search, self._stages[stage].end_epoch)
        self.switch('search')
        seconds = self.ledger.stages[-1]['seconds']['search']
        lines = [
            f'  {Subnet(c["depth"], c["resolution"])!s:>8}  loss {c["loss"]:.4f}  '
            f'{c["flops"] / 1e9:.4g} GFLOPs' +
            (f'  {c["time"] * 1e3:.2f} ms' if c['time'] is not None else '') +
            f'  score {c["score"]:.4g}{"  <- chosen" if c["chosen"] else ""}'
            for c in search['candidates']
        ]
        print_log(
            f'Search of stage {stage + 1}, w = {search["w"]:.4f}, {seconds:.1f} s besides '
            'training:\n' + '\n'.join(lines), logger='current')
        chosen = next(c for c in search['candidates'] if c['chosen'])
        self._add_scalars(
            {'autoprog/search_w': search['w'], 'autoprog/search_seconds': seconds,
             **{f'autoprog/search_{key}': chosen[key] for key in ('depth', 'resolution', 'loss')}})

    @master_only
    def _add_scalars(self, scalars: Dict[str, float]) -> None:
        """Hand scalars of this step to TensorBoard and the like.

        Not to ``scalars.json``, where tools take what is no training step for a
        validation; they are in ``autoprog.json``.
        """
        for backend in self._runner.visualizer._vis_backends.values():
            if not isinstance(backend, LocalVisBackend):
                backend.add_scalars(scalars, step=self._runner.iter)

    def finish(self, awake: Subnet) -> None:
        """Close the record of a run that has ended, with ``awake`` awake."""
        epochs, planned = self._runner.epoch, self._runner.max_epochs
        self.ledger.finish(epochs, planned)
        self.write()
        if epochs < planned:
            print_log(
                f'The run was stopped early, after {epochs} of {planned} epochs: a hook, such as '
                f'EarlyStoppingHook, has set stop_training. {awake} of {self.ledger.full} (depth '
                'x pixels) was awake.', logger='current', level=logging.WARNING)

    def write(self) -> None:
        """Write ``autoprog.json``, on the main process."""
        if is_main_process():
            self.ledger.budget = self._budget.describe(self._runner.iter)
            self.ledger.write(self._path)
