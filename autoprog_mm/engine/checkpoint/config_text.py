# Copyright (c) the autoprog_mm authors. All rights reserved.
from contextlib import contextmanager
from typing import Iterator

from mmengine.config import Config


class ConfigText:
    """Spares a runner from formatting its config for each checkpoint.

    That takes yapf some 0.3 s, which is most of what a checkpoint of a small
    model takes.
    """

    def __init__(self) -> None:
        self._content = ''  # the config as Python shows it
        self._text = ''  # and as yapf formats it

    @contextmanager
    def reused(self, runner) -> Iterator[None]:
        """Have ``runner.cfg.pretty_text`` formatted anew only if the config has changed.

        Args:
            runner (Runner): The runner, about to save checkpoints.
        """
        cfg = runner.cfg
        if isinstance(cfg, _Formatted):  # a best checkpoint is saved in a validation
            yield
            return
        content = repr(cfg)
        if content != self._content:
            self._content, self._text = content, cfg.pretty_text
        runner.cfg = _Formatted(cfg, self._text)
        try:
            yield
        finally:
            runner.cfg = cfg


class _Formatted:
    """A config whose text is there already."""

    def __init__(self, cfg: Config, text: str) -> None:
        self._cfg = cfg
        self.pretty_text = text

    def __getattr__(self, name: str):
        return getattr(self._cfg, name)
