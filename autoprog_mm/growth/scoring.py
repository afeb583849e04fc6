# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Which subnets a search compares, when it looks at them, and how it chooses."""
import math
from typing import List, Optional, Sequence, Set, Tuple

from ..utils.errors import UserError
from .schedule import Stage
from .subnet import Subnet

# Scores closer than this, relatively, are a tie: rounding must not decide.
_TIE = 1e-9
# Steps of a candidate that count when a search measures costs by time.
TIMED_STEPS = 5
# The forward pass's share of a training step; the rest is the two gradients.
FORWARD_SHARE = 1 / 3


def stage_candidates(stages: Sequence[Stage],
                     index: int,
                     current: Subnet,
                     searches: bool = True) -> List[Subnet]:
    """The subnets that the search of stage ``index`` compares.

    In stage 0 these are all pairs of the first, the middle and the last of
    the schedule's distinct depths and resolutions. Later these are up to three
    distinct depths, beginning with the next, each with the current resolution
    and the next. So depth always grows until it is full, as in the authors'
    code.

    Args:
        stages (Sequence[Stage]): The schedule.
        index (int): Which stage begins.
        current (Subnet): What ran until now; not looked at in stage 0.
        searches (bool): Whether the run searches; if not, each stage has its
            row of the schedule. Defaults to True.

    Returns:
        list[Subnet]: The candidates, shallow and small ones first. A single
        one means that there is nothing to search.
    """
    depths = sorted({stage.subnet.depth for stage in stages})
    resolutions = sorted({stage.subnet.resolution for stage in stages})
    if not searches or index == len(stages) - 1:
        return [stages[index].subnet]
    if index == 0:
        depths = sorted({depths[0], depths[len(depths) // 2], depths[-1]})
        resolutions = sorted({resolutions[0], resolutions[len(resolutions) // 2], resolutions[-1]})
    else:
        depths = [d for d in depths if d > current.depth][:3] or [current.depth]
        resolutions = ([current.resolution] +
                       [r for r in resolutions if r > current.resolution][:1])
    return [Subnet(depth, resolution) for depth in depths for resolution in resolutions]


def stage_choices(stages: Sequence[Stage], searches: bool = True) -> List[List[Subnet]]:
    """What each stage may run, whatever was chosen before it.

    Args:
        stages (Sequence[Stage]): The schedule.
        searches (bool): See :func:`stage_candidates`. Defaults to True.

    Returns:
        list[list[Subnet]]: For each stage, shallow and small ones first.
    """
    choices, before = [], [stages[0].subnet]
    for stage in stages:
        before = sorted({c for current in before
                         for c in stage_candidates(stages, stage.index, current, searches)},
                        key=lambda s: (s.depth, s.resolution))
        choices.append(before)
    return choices


def planned_subnets(stages: Sequence[Stage], searches: bool = True) -> Set[Subnet]:
    """What a run may run or be planned with, whatever is chosen.

    After a choice, each later stage is planned with its row, or what covers
    that and the choice.

    Args:
        stages (Sequence[Stage]): The schedule.
        searches (bool): See :func:`stage_candidates`. Defaults to True.

    Returns:
        set[Subnet]: All of them.
    """
    found = {stage.subnet for stage in stages}
    for index, choices in enumerate(stage_choices(stages, searches)):
        for subnet in choices:
            found.add(subnet)
            for stage in stages[index + 1:]:
                subnet = Subnet.covering([subnet, stage.subnet])
                found.add(subnet)
    return found


def evaluation_steps(num_steps: int, num_evals: int) -> List[int]:
    """After how many steps of an epoch to evaluate, evenly, the last included.

    Args:
        num_steps (int): Steps of the epoch.
        num_evals (int): How often to evaluate; more often than every step is
            every step.

    Returns:
        list[int]: Ascending numbers of finished steps.
    """
    return sorted({math.ceil(num_steps * k / num_evals) for k in range(1, num_evals + 1)})


def scored_after(search, num_steps: int) -> List[int]:
    """Steps of a whole search after which it scores, besides at its start."""
    return [e * num_steps + at for e in range(search.epochs)
            for at in evaluation_steps(num_steps, search.evals[min(e, 1)])]


def search_passes(search, num_steps: int, epoch: int = 0, steps: int = 0) -> float:
    """What is left of a search's own work, in training steps of each candidate.

    A forward pass counts as :data:`FORWARD_SHARE` of a step.

    Args:
        search (OneShotSearch): Its settings ``epochs``, ``evals``,
            ``eval_batches`` and ``cost`` are read.
        num_steps (int): Training steps of an epoch.
        epoch (int): Epochs of the search that are over. Defaults to 0.
        steps (int): Steps of the next that are done. Defaults to 0.
    """
    evaluations = sum(
        at > epoch * num_steps + steps for at in scored_after(search, num_steps))
    if epoch == steps == 0:
        evaluations += 1  # the one at the start; later epochs begin with the last one's end
    passes = evaluations * min(search.eval_batches, num_steps) * FORWARD_SHARE
    return passes + (1 + TIMED_STEPS if search.cost == 'time' else 0)  # one warms up


def fit_exponent(costs: Sequence[float], losses: Sequence[float]) -> Optional[float]:
    """Fit ``L = a * T ** -w`` by least squares in log space.

    Args:
        costs (Sequence[float]): Costs T, above 0.
        losses (Sequence[float]): Losses L, above 0 and finite.

    Returns:
        float | None: The exponent w, at least 0. None where a fit isn't
        possible, with fewer than three points or fewer than two costs.
    """
    log_t, log_l = [math.log(t) for t in costs], [math.log(loss) for loss in losses]
    if len(log_t) < 3 or max(log_t) - min(log_t) <= _TIE:
        return None
    mean_t, mean_l = sum(log_t) / len(log_t), sum(log_l) / len(log_l)
    slope = sum((t - mean_t) * (loss - mean_l) for t, loss in zip(log_t, log_l)) / \
        sum((t - mean_t)**2 for t in log_t)
    return max(0., -slope)


def choose(times: Sequence[float],
           losses: Sequence[float],
           fallback_w: float = 0.) -> Tuple[int, float]:
    """Choose the candidate that is furthest below the trend of loss over cost.

    Fits ``L = a * T ** -w`` by least squares in log space, w clipped at 0,
    and takes the least ``L * T ** w`` (AutoProg paper, section 3.4).

    Args:
        times (Sequence[float]): Cost T of each candidate, above 0, any unit.
        losses (Sequence[float]): Loss L of each candidate. One that is not
            finite never wins.
        fallback_w (float): The exponent to use where a fit isn't possible,
            with fewer than three finite candidates or fewer than two costs.
            Defaults to 0, which trades no accuracy for speed.

    Returns:
        tuple[int, float]: Index of the choice, and w. Ties go to the cheaper.

    Raises:
        ValueError: If the lengths differ, a cost is not positive and finite,
            or no loss is finite.
    """
    if len(times) != len(losses) or not times:
        raise UserError(
            f'times and losses must be of one length above 0, but got {len(times)} and '
            f'{len(losses)}.')
    bad = [t for t in times if not (math.isfinite(t) and t > 0)]
    if bad:
        raise UserError(f'times must be positive and finite, but got {bad}.')
    finite = _finite(losses)
    # A loss of exactly 0 has no logarithm; it is the best there can be.
    perfect = [i for i in finite if losses[i] <= 0]
    if perfect:
        return min(perfect, key=lambda i: times[i]), fallback_w
    fitted = fit_exponent([times[i] for i in finite], [losses[i] for i in finite])
    w = fallback_w if fitted is None else fitted
    score = {i: math.log(losses[i]) + w * math.log(times[i]) for i in finite}
    least = min(score.values())
    ties = [i for i in finite if score[i] - least <= _TIE]
    return min(ties, key=lambda i: times[i]), w


def _finite(losses: Sequence[float]) -> List[int]:
    """Indices of the finite ones, of which there must be one."""
    finite = [i for i, loss in enumerate(losses) if math.isfinite(loss)]
    if not finite:
        raise UserError(
            f'No candidate has a finite loss ({list(losses)}): training has diverged. '
            'Lower the learning rate, clip gradients, or resume from an earlier checkpoint.')
    return finite


def choose_at_equal_compute(steps: Sequence[int], histories: Sequence[Sequence[float]],
                            to_come: Sequence[float]) -> Tuple[int, List[float]]:
    """Choose the candidate that will have the least loss when its stage's budget is spent.

    Fits ``L = a * n ** -b`` to each candidate's losses over the steps n of the
    search, by least squares in log space, b clipped at 0.

    Args:
        steps (Sequence[int]): Steps of the search that were done at each
            scoring, above 0.
        histories (Sequence[Sequence[float]]): Losses of each candidate then.
        to_come (Sequence[float]): Steps of each that the budget still buys.

    Returns:
        tuple[int, list[float]]: Index of the choice, and the loss of each that
        is predicted, infinite where one before was not finite. Ties go to the
        cheaper.

    Raises:
        UserError: If none is finite.
    """
    predicted = []
    for losses, more in zip(histories, to_come):
        if not all(map(math.isfinite, losses)):
            predicted.append(math.inf)
            continue
        losses = [max(loss, _TIE) for loss in losses]  # 0 has no logarithm
        b = fit_exponent(steps, losses) or 0.
        level = sum(math.log(loss) + b * math.log(n) for n, loss in zip(steps, losses)) / len(steps)
        predicted.append(math.exp(level - b * math.log(steps[-1] + more)))
    least = min(predicted[i] for i in _finite(predicted))
    ties = [i for i, loss in enumerate(predicted) if loss <= least * (1 + _TIE)]
    return max(ties, key=lambda i: to_come[i]), predicted


def candidate_rows(candidates: Sequence[Subnet], times: Optional[Sequence[float]],
                   flops: Sequence[float], histories: Sequence[Sequence[float]],
                   losses: Sequence[float], w: float, chosen: int,
                   scores: Optional[Sequence[float]] = None) -> List[dict]:
    """The candidates of a search as the record has them.

    Args:
        candidates (Sequence[Subnet]): The candidates.
        times (Sequence[float] | None): Seconds of a step of each; None if the
            search went by multiply-adds.
        flops (Sequence[float]): Multiply-adds of each.
        histories (Sequence[Sequence[float]]): All evaluations of each.
        losses (Sequence[float]): The loss that counts of each.
        w (float): Exponent of the trend.
        chosen (int): Index of the choice.
        scores (Sequence[float], optional): Of another rule than the trend's,
            which ``losses`` and ``w`` make. Defaults to None.

    Returns:
        list[dict]: One a candidate.
    """
    return [
        dict(
            depth=candidate.depth,
            resolution=candidate.resolution,
            time=None if times is None else times[i],
            flops=flops[i],
            losses=list(histories[i]),
            loss=losses[i],
            score=losses[i] * (flops if times is None else times)[i]**w
            if scores is None else scores[i],
            chosen=i == chosen) for i, candidate in enumerate(candidates)
    ]
