# Copyright (c) the autoprog_mm authors. All rights reserved.
import re
from datetime import timedelta
from typing import Optional, Tuple

from mmengine.runner import LogProcessor
from mmpretrain.registry import LOG_PROCESSORS

from ...planning.forecast import Range
from ..hooks import AutoProgHook


@LOG_PROCESSORS.register_module()
class AutoProgLogProcessor(LogProcessor):
    """mmengine's ``LogProcessor`` that knows of stages.

    Each line of training says stage, depth and resolution of the step, and its
    ``eta`` weighs what is left by what each stage takes, with searches and
    validations. It follows from the steps that the process has made, so it is
    not known in the first ones. While a search has not decided yet, it is the
    range that the open choices leave. Visualizers get these as
    ``autoprog/stage``, ``depth``, ``resolution``, ``train_seconds``,
    ``eta_low`` and ``eta_high``.

    Args:
        *args: As ``LogProcessor``.
        **kwargs: As ``LogProcessor``.
    """

    def get_log_after_iter(self, runner, batch_idx: int, mode: str) -> Tuple[dict, str]:
        """The line of a step, and what visualizers get."""
        tag, text = super().get_log_after_iter(runner, batch_idx, mode)
        hook = next((hook for hook in runner.hooks if isinstance(hook, AutoProgHook)), None)
        if mode != 'train' or hook is None:
            return tag, text
        subnet = hook.parts.backbone.running_subnet
        left = hook.time_left(runner, batch_idx + 1)
        tag.update({
            'autoprog/stage': hook.stage_index + 1,
            'autoprog/depth': subnet.depth,
            'autoprog/resolution': subnet.resolution,
            'autoprog/train_seconds': hook.record.ledger.train_seconds,
        })
        if left is not None:
            tag.update({'autoprog/eta_low': left.low, 'autoprog/eta_high': left.high})
        stage = (f'stage: {hook.stage_index + 1}/{len(hook.stages)}  depth: {subnet.depth}  '
                 f'resolution: {subnet.resolution}  ')
        text = re.sub(r'^(\w+\(train\)\s*(?:\[[^]]*\])+  )', lambda m: m[1] + stage, text)
        return tag, re.sub(r'eta: .*?  (?=time: )', f'eta: {_text(left)}  ', text)


def _text(left: Optional[Range]) -> str:
    if left is None:
        return 'not known yet'
    low, high = (str(timedelta(seconds=round(seconds))) for seconds in left)
    return low if low == high else f'{low} to {high}'
