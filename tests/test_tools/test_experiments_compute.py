# Copyright (c) the autoprog_mm authors. All rights reserved.
"""tools/experiments: what a run has computed, against what went through its layers."""
from pathlib import Path

import pytest
from mmengine.fileio import load
from mmengine.runner import Runner

from autoprog_mm.growth import OneShotSearch
from tests.micro import STEPS, micro_config

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(Path(__file__).parents[2] / 'tools' / 'experiments')
    from compute import spent_compute

SEARCH = dict(type='OneShotSearch', epochs=1, eval_batches=2, evals=(1, 2), cost='flops')
EPOCHS = 4
FULL = 16 * 192 * 16 + 4 * (17 * 2048 + 2 * 17**2 * 16)  # as in test_experiments.py


@pytest.mark.parametrize('hook', [
    dict(), dict(speedup=1, budget='flops')], ids=['search', 'search in a budget'])
def test_spent_compute_is_what_went_through_the_layers(jpeg_root, tmp_path, monkeypatch, hook):
    """A step is a forward pass and twice as much for gradients, scoring a forward pass."""
    cfg = micro_config(jpeg_root, tmp_path, val_dataloader=None, val_evaluator=None, val_cfg=None,
                       train_cfg__max_epochs=EPOCHS)
    cfg.custom_hooks[0].update(num_stages=2, search=SEARCH, **hook)
    runner = Runner.from_cfg(cfg)
    spent, scoring = [], []

    def add(module, flops):
        if module.training or scoring:  # a growth's look at the loss is neither
            spent.append(flops if module.training else flops / 3)

    def evaluate(*args):
        scoring.append(True)
        score(*args)
        scoring.clear()

    score = OneShotSearch.evaluate
    monkeypatch.setattr(OneShotSearch, 'evaluate', evaluate)
    backbone = runner.model.backbone
    backbone.patch_embed.register_forward_hook(
        lambda module, _, outputs: add(module, outputs[0].shape[1] * 192 * 16))
    for layer in backbone.layers:
        layer.register_forward_hook(lambda module, _, x: add(
            module, x.shape[1] * 2048 + 2 * x.shape[1]**2 * 16))
    runner.train()
    search = next(h.search for h in runner.hooks if type(h).__name__ == 'AutoProgHook')
    found = spent_compute(load(tmp_path / 'autoprog.json'), backbone.flops, search)
    assert found == pytest.approx(sum(spent) / (EPOCHS * STEPS * FULL))
    assert 'speedup' not in hook or found == pytest.approx(1, rel=0.15)
