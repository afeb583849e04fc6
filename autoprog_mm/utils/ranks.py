# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What ranks tell each other besides gradients."""
from datetime import timedelta
from typing import Any, List, Optional, Sequence

import torch
import torch.distributed as dist
from mmengine.dist import all_gather_object, get_rank, get_world_size


def check_ranks_agree(what: str, value: Any) -> None:
    """Raise an error unless all ranks have the same value; a collective call.

    Args:
        what (str): What is compared, for the message.
        value (Any): Something that pickles and compares by ``==``.

    Raises:
        RuntimeError: On all ranks, if they don't; names the ranks and values.
    """
    values = all_gather_object(value)
    if any(other != values[0] for other in values):
        raise RuntimeError(
            f'The ranks disagree on {what}: ' +
            ', '.join(f'rank {rank} has {other}' for rank, other in enumerate(values)) +
            '. All must run with the same code, config and data.')


class StepExchange:
    """Adds up a few ints over all ranks at each step, without waiting for it.

    The sum that step k gives is what the ranks handed in at step k - 1, the
    same on all of them, so that all act on it at the same step. It travels on
    the CPU, in a gloo group of its own, while the step runs: no device is
    synchronised. A single process gets its own numbers at once.

    Args:
        size (int): How many ints.
        timeout (timedelta, optional): After which a rank that doesn't answer
            is given up. Defaults to None, torch's default.
    """

    def __init__(self, size: int, timeout: Optional[timedelta] = None) -> None:
        self._group = dist.new_group(backend='gloo', timeout=timeout) \
            if get_world_size() > 1 else None
        self._size = size
        self._pending: Optional[tuple] = None

    def exchange(self, values: Sequence[int]) -> List[int]:
        """Hand in this step's numbers and get the sums of the step before.

        Args:
            values (Sequence[int]): This rank's numbers.

        Returns:
            list[int]: Sums over all ranks; zeros in the first step of several
            processes.

        Raises:
            RuntimeError: If another rank is gone or doesn't answer.
        """
        if self._group is None:
            return list(values)
        before = self.finish()
        numbers = torch.tensor(values, dtype=torch.int64)
        self._pending = numbers, dist.all_reduce(numbers, group=self._group, async_op=True)
        return before

    def finish(self) -> List[int]:
        """Wait for what is on its way.

        Returns:
            list[int]: The sums; zeros if there is nothing on its way.
        """
        if self._pending is None:
            return [0] * self._size
        (numbers, work), self._pending = self._pending, None
        try:
            work.wait()
        except RuntimeError as error:
            raise RuntimeError(
                f'Rank {get_rank()} lost touch with another rank, which is gone or hangs. Look for '
                'its message; the run goes on from its last checkpoint with --resume.') from error
        return numbers.tolist()

    def barrier(self) -> None:
        """Wait until all ranks are here, and nothing is on its way any more."""
        self.finish()
        if self._group is not None:
            dist.barrier(group=self._group)


def fingerprint(tensors: Sequence[torch.Tensor]) -> List[int]:
    """A few numbers that differ if any bit of some tensors does, almost surely.

    Args:
        tensors (Sequence[Tensor]): On one device.

    Returns:
        list[int]: One number a tensor.
    """
    words = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    sums = [tensor.detach().contiguous().view(words[tensor.element_size()]).sum(dtype=torch.int64)
            for tensor in tensors]
    return torch.stack(sums).tolist() if sums else []
