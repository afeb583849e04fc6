# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Compiling a backbone's forward pass, and going on without where that fails."""
import logging
from contextlib import contextmanager
from typing import Any, Callable, Iterator, Optional

import torch
import torch._dynamo
from mmengine.logging import print_log

# One of each subnet, for each drop-path rate, of the longest of schedules.
_MAX_GRAPHS = 128


class CompilableForward:
    """Mixin of a module whose forward passes can be compiled in training.

    Its ``forward`` calls a method of its own through :meth:`run_compiled`.
    """

    _compile_options: Optional[dict] = None
    _compiled: Optional[Callable] = None

    def compile_forward(self, **options) -> None:
        """Compile the forward passes of training, one graph a subnet.

        Args:
            **options: As ``torch.compile``, but ``dynamic`` is False unless it
                is given: a graph for any size is slower at each.
        """
        self._compile_options = {'dynamic': False, **options}
        config = torch._dynamo.config
        config.recompile_limit = max(config.recompile_limit, _MAX_GRAPHS)
        config.accumulated_recompile_limit = max(
            config.accumulated_recompile_limit, 2 * _MAX_GRAPHS)

    def run_compiled(self, method: Callable, *args) -> Any:
        """Call a method, compiled if :meth:`compile_forward` asked for it.

        Scoring and validation are not compiled, since a graph of theirs would
        be used a few times only.

        Args:
            method (Callable): The same one in each call.
            *args: Its arguments.
        """
        if self._compile_options is None or not self.training or not torch.is_grad_enabled():
            return method(*args)
        if self._compiled is None:
            self._compiled = torch.compile(method, **self._compile_options)
        try:
            return self._compiled(*args)
        except torch._dynamo.exc.TorchDynamoException as error:
            self._compile_options = self._compiled = None
            reason = str(error).strip().splitlines()[0]
            print_log(
                f'{type(self).__name__} cannot be compiled here ({type(error).__name__}: '
                f'{reason}). Training goes on without.', logger='current', level=logging.WARNING)
            return method(*args)

    @contextmanager
    def not_compiled(self) -> Iterator[None]:
        """Context in which nothing is compiled, for passes of no lasting interest."""
        options, self._compile_options = self._compile_options, None
        try:
            yield
        finally:
            self._compile_options = options
