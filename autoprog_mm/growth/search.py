# Copyright (c) the autoprog_mm authors. All rights reserved.
from typing import Iterable, List, Optional, Sequence, Tuple

import torch
import torch.nn as nn
from mmengine.dist import broadcast_object_list, get_rank
from mmpretrain.registry import TASK_UTILS

from ..utils import derive_seed
from ..utils.errors import UserError
from .probe import labelled_batches, mean_losses, time_steps
from .scoring import SearchBounds, choose, evaluation_steps
from .subnet import Subnet

COSTS = ('time', 'flops')
REDUCTIONS = ('mean', 'last')
_TIMED_STEPS = 5


@TASK_UTILS.register_module()
class OneShotSearch:
    """Chooses a stage's subnet by training all candidates as one supernet.

    For ``epochs`` epochs each step trains a candidate drawn at random, all
    ranks the same one. Their losses on the same training batches are measured
    now and then with the first momentum copy, and the candidate furthest below
    the trend of loss over cost wins (AutoProg paper, section 3.4).

    Args:
        epochs (int): Epochs of supernet training at the start of each stage
            that is searched; the last never is. Defaults to 2.
        eval_batches (int): Training batches that candidates are scored on, per
            rank; at most one epoch's worth. Defaults to 50.
        evals (Sequence[int]): How often to score in the first epoch and in
            each later one, besides the one at the start. Defaults to (1, 4).
        cost (str): ``'time'``, the median time of a forward and backward step
            on rank 0, or ``'flops'``, which is the same in every run.
            Defaults to ``'time'``.
        max_lag (int, optional): How many stages a choice may be behind the
            manual schedule. A search sees what learns fastest in a few steps,
            which favours what is small, and not that the rest is to be grown
            in the last stage then. Defaults to None, any number, as in the
            paper.
        first_stage (int): The first stage that is searched, from 0. Those
            before it run their row of the manual schedule, so that what wakes
            up later has trained layers to copy. Defaults to 0, as in the
            paper.
        reduction (str): How a candidate's losses become one: their
            ``'mean'``, as in the paper, which favours what has been trained
            already, or the ``'last'``. Defaults to ``'mean'``.
        min_w (float): The least exponent w of the trend, in [0, 1]. With
            0.05, twice the cost must bring at least 3.4 % less loss. In short
            searches the trend drowns in noise, w is 0, and any cost is paid
            for the least loss. With two candidates, of which no trend can be
            fitted, w is this or an earlier search's, whichever is larger.
            Defaults to 0., as in the paper.

    Raises:
        ValueError: For a number out of its range, an unknown cost or an
            unknown reduction.
    """

    def __init__(self,
                 epochs: int = 2,
                 eval_batches: int = 50,
                 evals: Sequence[int] = (1, 4),
                 cost: str = 'time',
                 max_lag: Optional[int] = None,
                 first_stage: int = 0,
                 reduction: str = 'mean',
                 min_w: float = 0.) -> None:
        if not isinstance(evals, Sequence) or isinstance(evals, str) or len(evals) != 2:
            raise UserError(
                f'search.evals must be two ints, evaluations in the first and in each later '
                f'epoch, but got {evals!r}.')
        for name, value in (('epochs', epochs), ('eval_batches', eval_batches),
                            ('evals[0]', evals[0]), ('evals[1]', evals[1])):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(f'search.{name} must be an int of at least 1, but got {value!r}.')
        for name, value, known in (('cost', cost, COSTS), ('reduction', reduction, REDUCTIONS)):
            if value not in known:
                raise UserError(f'search.{name} must be one of {known}, but got {value!r}.')
        for name, value, other in (('max_lag', max_lag, ' or None'),
                                   ('first_stage', first_stage, '')):
            if not (other and value is None) and (
                    isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise UserError(
                    f'search.{name} must be an int of at least 0{other}, but got {value!r}.')
        if isinstance(min_w, bool) or not isinstance(min_w, (int, float)) or not 0 <= min_w <= 1:
            raise UserError(f'search.min_w must be a number in [0, 1], but got {min_w!r}.')
        self.epochs = epochs
        self.bounds = SearchBounds(first_stage, max_lag)
        self.min_w = min_w
        self.reduction = reduction
        self.eval_batches = eval_batches
        self.evals = tuple(evals)
        self.cost = cost
        # The exponent of the last search; it stands where the next one can't fit one.
        self.w = 0.
        self.candidates: List[Subnet] = []
        self.losses: List[List[float]] = []
        self._batches: List[Tuple[torch.Tensor, torch.Tensor]] = []  # on the host, as loaded

    def start(self, candidates: Sequence[Subnet]) -> None:
        """Begin the search of a stage.

        Args:
            candidates (Sequence[Subnet]): At least two.
        """
        self.candidates = list(candidates)
        self.losses = [[] for _ in candidates]
        self._batches = []

    def state_dict(self) -> dict:
        """dict: All that a resumed search needs, in plain types."""
        return dict(
            settings=self._settings(),
            w=self.w,
            candidates=[[c.depth, c.resolution] for c in self.candidates],
            losses=[list(losses) for losses in self.losses])

    def load_state_dict(self, state: dict) -> None:
        """Take up what :meth:`state_dict` gave.

        Args:
            state (dict): From :meth:`state_dict`.

        Raises:
            ValueError: If it was made with other settings.
        """
        if state['settings'] != self._settings():
            raise UserError(
                f'The checkpoint was made with search={state["settings"]}, but it now is '
                f'{self._settings()}; set the same to resume.')
        self.start([Subnet(*c) for c in state['candidates']])
        self.losses = [list(losses) for losses in state['losses']]
        self.w = state['w']

    def _settings(self) -> dict:
        return dict(
            epochs=self.epochs,
            eval_batches=self.eval_batches,
            evals=list(self.evals),
            cost=self.cost,
            # Checkpoints of before there were these have none.
            **{name: value for name, value, default in (
                ('max_lag', self.bounds.max_lag, None),
                ('first_stage', self.bounds.first_stage, 0),
                ('reduction', self.reduction, 'mean'),
                ('min_w', self.min_w, 0.)) if value != default})

    def draw(self, seed: int, step: int) -> Subnet:
        """The candidate that step ``step`` trains, the same on all ranks."""
        return self.candidates[derive_seed(seed, 'subnet', step) % len(self.candidates)]

    def evaluation_steps(self, epoch: int, num_steps: int) -> List[int]:
        """After which steps of the search's epoch ``epoch`` to evaluate."""
        return evaluation_steps(num_steps, self.evals[0] if epoch == 0 else self.evals[1])

    # ------------------------------------------------------------- evaluation

    def hold_batches(self, batches: Iterable[dict]) -> None:
        """Keep the batches to score on, as they come from the loader.

        Args:
            batches (Iterable[dict]): Collated training batches: ``inputs`` of
                shape (B, C, H, W) or a list of (C, H, W), and ``data_samples``
                with one ``gt_label`` each.

        Raises:
            ValueError: If an image has several labels, or none.
        """
        held = labelled_batches(batches)
        if held is None:
            raise UserError(
                'OneShotSearch scores candidates by cross-entropy and needs one label an image; '
                'with several, or none, use search=None.')
        self._batches += held

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

    def measure(self, model: nn.Module, optim_wrapper) -> List[float]:
        """The cost of each candidate: seconds of rank 0, or multiply-adds.

        All ranks measure, since a model may synchronise in its forward pass;
        rank 0's times are the ones that count.

        Args:
            model (nn.Module): The classifier, without a model wrapper.
            optim_wrapper (MoGrowOptimWrapper): For its autocast context.

        Returns:
            list[float]: The same on all ranks.
        """
        if self.cost == 'flops':
            return [model.backbone.flops(candidate) for candidate in self.candidates]
        images, labels = self._batches[0]
        data = model.data_preprocessor(dict(inputs=images), training=False)['inputs']
        labels = labels.to(data.device)
        result = [time_steps(model, optim_wrapper, self.candidates, data, labels, _TIMED_STEPS)]
        broadcast_object_list(result)
        return result[0]

    def decide(self, model: nn.Module, optim_wrapper) -> Tuple[Subnet, dict]:
        """Choose, the same on all ranks.

        Args:
            model (nn.Module): The classifier, without a model wrapper.
            optim_wrapper (MoGrowOptimWrapper): See :meth:`measure`.

        Returns:
            tuple[Subnet, dict]: The choice and the search's part of the record.

        Raises:
            ValueError: If no candidate has a finite loss.
            RuntimeError: If ranks disagree.
        """
        costs = self.measure(model, optim_wrapper)
        losses = [history[-1] if self.reduction == 'last' else sum(history) / len(history)
                  for history in self.losses]
        index, self.w = choose(costs, losses, self.w, self.min_w)
        decision = [(index, self.w)]
        broadcast_object_list(decision)
        if decision[0] != (index, self.w):
            raise RuntimeError(
                f'Rank {get_rank()} chose {self.candidates[index]} with w={self.w}, rank 0 '
                f'{self.candidates[decision[0][0]]} with w={decision[0][1]}: the ranks do not '
                'see the same losses.')
        record = dict(
            epochs=self.epochs,
            w=self.w,
            candidates=[
                dict(
                    depth=c.depth,
                    resolution=c.resolution,
                    time=costs[i] if self.cost == 'time' else None,
                    flops=model.backbone.flops(c),
                    losses=list(self.losses[i]),
                    loss=losses[i],
                    score=losses[i] * costs[i]**self.w,
                    chosen=i == index) for i, c in enumerate(self.candidates)
            ])
        self._batches = []
        return self.candidates[index], record
