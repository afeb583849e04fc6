# Copyright (c) the autoprog_mm authors. All rights reserved.
import torch
from mmengine.hooks import Hook
from mmpretrain.registry import HOOKS

from ...utils.errors import UserError
from ...utils.modules import unwrap
from ..run_parts import find_backbone

PRECISIONS = ('highest', 'high', 'medium')


@HOOKS.register_module()
class CompileHook(Hook):
    """Compiles the backbone, and sets the precision of float32.

    It takes two keys of the config over from mmengine::

        compile = True  # or options of torch.compile
        env_cfg = dict(float32_matmul_precision='high')

    mmengine would compile the whole training step, with mixing and the
    optimizer in it, which breaks into dozens of graphs. For the precision on
    CUDA it has no key: ``'highest'``, ``'high'`` (TF32) or ``'medium'``, see
    ``torch.set_float32_matmul_precision``.

    Raises:
        UserError: Before training, if ``compile`` names a target or the
            precision is unknown.
    """

    def before_run(self, runner) -> None:
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
                f'compile.target ({options["target"]!r}) is not to be set: CompileHook has the '
                "backbone's forward pass compiled.")
        find_backbone(unwrap(runner.model), 'CompileHook').compile_forward(**options)
        runner.cfg.compile = None
