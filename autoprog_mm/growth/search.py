# Copyright (c) the autoprog_mm authors. All rights reserved.
from typing import Callable, Iterable, List, Optional, Sequence, Tuple

import torch
import torch.nn as nn
from mmengine.dist import broadcast_object_list, get_rank
from mmpretrain.registry import TASK_UTILS

from ..utils.checks import check_int
from ..utils.errors import UserError
from .probe import labelled_batches, mean_losses, time_candidates
from .schedule import Stage
from .scoring import (
    TIMED_STEPS,
    candidate_rows,
    choose,
    choose_at_equal_compute,
    evaluation_steps,
    scored_after,
)
from .subnet import Subnet

COSTS = ('time', 'flops')
RULES = ('trend', 'compute')


@TASK_UTILS.register_module()
class OneShotSearch:
    """Chooses a stage's subnet by training all candidates as one supernet.

    For ``epochs`` epochs each step trains a candidate drawn at random, all
    ranks the same one. Their losses on the same training batches are measured
    now and then with the first momentum copy. Of each candidate the mean over
    the last of these epochs counts, its start included, and the one furthest
    below the trend of loss over cost wins (AutoProg paper, section 3.4).

    Args:
        epochs (int): Epochs of supernet training at the start of each stage
            that is searched; the last never is. Defaults to 2.
        eval_batches (int): Training batches that candidates are scored on, per
            rank; at most one epoch's worth. Defaults to 50.
        evals (Sequence[int]): How often to score in the first epoch and in
            each later one, evenly, the last time at its end; besides once at
            the start. Defaults to (1, 4).
        cost (str): ``'time'``, the median time of a forward and backward step
            on rank 0, or ``'flops'``, which is the same in every run.
            Defaults to ``'time'``.
        rule (str): ``'trend'``: the furthest below the trend of loss over cost
            wins, as in the paper. ``'compute'``, with ``speedup`` only: the
            least loss at the stage's end, as a curve of loss over the search's
            steps predicts for what the budget buys. Defaults to ``'trend'``.

    Raises:
        ValueError: For a number out of its range, or an unknown cost or rule.
    """

    def __init__(self,
                 epochs: int = 2,
                 eval_batches: int = 50,
                 evals: Sequence[int] = (1, 4),
                 cost: str = 'time',
                 rule: str = 'trend') -> None:
        if not isinstance(evals, Sequence) or isinstance(evals, str) or len(evals) != 2:
            raise UserError(
                f'search.evals must be two ints, evaluations in the first and in each later '
                f'epoch, but got {evals!r}.')
        check_int('search.epochs', epochs)
        check_int('search.eval_batches', eval_batches)
        check_int('search.evals[0]', evals[0])
        check_int('search.evals[1]', evals[1])
        for name, value, known in (('cost', cost, COSTS), ('rule', rule, RULES)):
            if value not in known:
                raise UserError(f'search.{name} must be one of {known}, but got {value!r}.')
        scorings = evals[0] + (epochs - 1) * evals[1]
        if rule == 'compute' and scorings < 3:
            raise UserError(
                f"search.rule='compute' needs 3 scorings after the start, but search.evals={evals} "
                f'makes {scorings} in search.epochs={epochs}. Raise search.evals.')
        self.epochs = epochs
        self.eval_batches = eval_batches
        self.evals = tuple(evals)
        self.cost = cost
        self.rule = rule
        # The exponent of the last search; it stands where the next one can't fit one.
        self.w = 0.
        self.searching = False
        self.candidates: List[Subnet] = []
        self.losses: List[List[float]] = []
        self.record: Optional[dict] = None  # of the last decision
        self._batches: List[Tuple[torch.Tensor, torch.Tensor]] = []  # on the host, as loaded
        self._due: List[int] = []  # after how many steps of the epoch to score
        self._num_steps = 0  # of an epoch
        self.num_parts: Optional[Callable[[int, Subnet], int]] = None  # of so many images' step

    def check_stages(self, stages: Sequence[Stage]) -> None:
        """Raise a UserError unless a schedule has room for the searches.

        Args:
            stages (Sequence[Stage]): The schedule.
        """
        for stage in stages[:-1]:
            length = stage.end_epoch - stage.begin_epoch
            if self.epochs > length:
                raise UserError(
                    f'search.epochs ({self.epochs}) must not exceed the length of a stage, but '
                    f'stage {stage.index} has {length} epochs. Lower it, or num_stages, or raise '
                    'max_epochs.')

    # ----------------------------------------------------------------- course

    def begin(self, candidates: Sequence[Subnet]) -> None:
        """Begin the search of a stage.

        Args:
            candidates (Sequence[Subnet]): At least two.
        """
        self.searching = True
        self.candidates = list(candidates)
        self.losses = [[] for _ in candidates]
        self._batches = []

    def begin_epoch(self, model: nn.Module, optim_wrapper, epoch: int, num_steps: int,
                    draw: Callable[[int], Iterable[dict]]) -> None:
        """Begin an epoch of supernet training.

        Args:
            model (Module): The classifier, without a model wrapper.
            optim_wrapper (MoGrowOptimWrapper): Owner of the momentum copies.
            epoch (int): Epoch of the search, from 0.
            num_steps (int): Training steps of an epoch.
            draw (Callable): Gives as many scoring batches as it is told.
        """
        self.hold_batches(draw)
        # A later epoch begins with the losses of the last one's end: weights and images are the
        # same. What is resumed has begun already.
        if not self.losses[0]:
            self.evaluate(model, optim_wrapper)
        self._num_steps = num_steps
        self._due = evaluation_steps(num_steps, self.evals[min(epoch, 1)])

    def before_step(self, model: nn.Module, seed: int) -> None:
        """Have a step train one candidate.

        Args:
            model (Module): The classifier, without a model wrapper.
            seed (int): What the candidate is drawn with; the same on all ranks.
        """
        candidate = self.candidates[seed % len(self.candidates)]
        model.backbone.set_running(candidate)
        model.data_preprocessor.resolution = candidate.resolution

    def after_step(self, model: nn.Module, optim_wrapper, steps: int) -> None:
        """Score the candidates when it is time.

        Args:
            model (Module): See :meth:`begin_epoch`.
            optim_wrapper (MoGrowOptimWrapper): See :meth:`begin_epoch`.
            steps (int): Steps of the epoch that are done.
        """
        if steps in self._due:
            self.evaluate(model, optim_wrapper)

    def end_epoch(self, model: nn.Module, optim_wrapper, epoch: int,
                  buys: Optional[Sequence[float]] = None) -> Optional[Subnet]:
        """End an epoch of supernet training; the last one ends with a decision.

        Args:
            model (Module): See :meth:`begin_epoch`.
            optim_wrapper (MoGrowOptimWrapper): See :meth:`begin_epoch`.
            epoch (int): Epoch of the search, from 0.
            buys (Sequence[float], optional): Epochs of each candidate that the
                rest of the stage's budget buys, for ``rule='compute'``.
                Defaults to None.

        Returns:
            Subnet | None: The choice, of which :attr:`record` tells more; None
            while the search goes on.
        """
        model.backbone.set_running(None)
        model.data_preprocessor.resolution = None
        if epoch + 1 < self.epochs:
            return None
        self.searching = False
        choice, self.record = self.decide(model, optim_wrapper, buys)
        return choice

    # ------------------------------------------------------------- checkpoints

    def state_dict(self) -> dict:
        """dict: All that a resumed search needs, in plain types."""
        return dict(
            settings=self._settings(),
            w=self.w,
            searching=self.searching,
            candidates=[[c.depth, c.resolution] for c in self.candidates],
            losses=[list(losses) for losses in self.losses])

    def load_state_dict(self, state: dict) -> None:
        """Take up what :meth:`state_dict` gave.

        Args:
            state (dict): From :meth:`state_dict`.

        Raises:
            UserError: If it was made with other settings.
        """
        if state['settings'] != self._settings():
            raise UserError(
                f'The checkpoint was made with search={state["settings"]}, but it now is '
                f'{self._settings()}; set the same to resume.')
        self.begin([Subnet(*c) for c in state['candidates']])
        self.searching = state['searching']
        self.losses = [list(losses) for losses in state['losses']]
        self.w = state['w']

    def _settings(self) -> dict:
        return dict(
            epochs=self.epochs,
            eval_batches=self.eval_batches,
            evals=list(self.evals),
            cost=self.cost,
            rule=self.rule)

    def hold_batches(self, draw: Callable[[int], Iterable[dict]]) -> None:
        """Draw the batches to score on, unless they are held already.

        Args:
            draw (Callable): Gives as many collated training batches as it is
                told: ``inputs`` of shape (B, C, H, W) or a list of (C, H, W),
                and ``data_samples`` with one ``gt_label`` each.

        Raises:
            ValueError: If an image has several labels, or none.
        """
        if self._batches:
            return
        held = labelled_batches(draw(self.eval_batches))
        if held is None:
            raise UserError(
                'OneShotSearch scores candidates by cross-entropy and needs one label an image; '
                'with several, or none, use search=None.')
        self._batches = held

    @property
    def batches(self) -> List[Tuple[torch.Tensor, torch.Tensor]]:
        """list[tuple]: The scoring batches that are held, images and classes."""
        return self._batches

    def evaluate(self, model: nn.Module, optim_wrapper) -> None:
        """Score all candidates once and add to :attr:`losses`, averaged over ranks.

        Args:
            model (nn.Module): The classifier, without a model wrapper.
            optim_wrapper (MoGrowOptimWrapper): Owner of the momentum copies.
        """
        losses = mean_losses(model, optim_wrapper, self._batches, self.candidates,
                             optim_wrapper.momentum_weights(0))
        for history, loss in zip(self.losses, losses):
            history.append(loss)

    def decide(self, model: nn.Module, optim_wrapper,
               buys: Optional[Sequence[float]] = None) -> Tuple[Subnet, dict]:
        """Choose, the same on all ranks.

        Args:
            model (Module): The classifier, without a model wrapper.
            optim_wrapper (MoGrowOptimWrapper): For its autocast context.
            buys (Sequence[float], optional): See :meth:`end_epoch`.

        Returns:
            tuple[Subnet, dict]: The choice and the search's part of the record.

        Raises:
            UserError: If no candidate has a finite loss.
            RuntimeError: If ranks disagree.
        """
        flops = [model.backbone.flops(candidate) for candidate in self.candidates]
        times = None if self.cost == 'flops' else time_candidates(
            model, optim_wrapper, self.candidates, self._batches[0], TIMED_STEPS, self.num_parts)
        counted = 1 + len(self._due)  # those of the last epoch, and of its start
        losses = [sum(history[-counted:]) / counted for history in self.losses]
        index, self.w = choose(times or flops, losses, self.w)
        scores = None
        if self.rule == 'compute':
            index, scores = choose_at_equal_compute(
                scored_after(self, self._num_steps), [history[1:] for history in self.losses],
                [epochs * self._num_steps for epochs in buys])
        decision = [(index, self.w)]
        broadcast_object_list(decision)
        if decision[0] != (index, self.w):
            raise RuntimeError(
                f'Rank {get_rank()} chose {self.candidates[index]} with w={self.w}, rank 0 '
                f'{self.candidates[decision[0][0]]} with w={decision[0][1]}: the ranks do not '
                'see the same losses.')
        self._batches = []
        rows = candidate_rows(
            self.candidates, times, flops, self.losses, losses, self.w, index, scores)
        return self.candidates[index], dict(
            epochs=self.epochs, rule=self.rule, w=self.w, candidates=rows)
