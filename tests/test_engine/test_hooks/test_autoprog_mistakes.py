# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What cannot work gets an error that names argument, value and way out, before training."""
import pytest
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmpretrain.registry import HOOKS, MODELS, OPTIM_WRAPPERS, TASK_UTILS, TRANSFORMS

from autoprog_mm.utils import UserError
from tests.micro import micro_config, run
from tests.test_engine.resuming import SEARCH


def hook(**options):
    return HOOKS, dict(type='AutoProgHook', **options)


def search(**options):
    return TASK_UTILS, {**SEARCH, **options}


def wrapper(**options):
    return OPTIM_WRAPPERS, dict(type='MoGrowOptimWrapper', optimizer=None, **options)


def saver(**options):
    return HOOKS, dict(type='SafeCheckpointHook', **options)


def guard(**options):
    return HOOKS, dict(type='RunGuardHook', **options)


def deit(**options):
    arch = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
    return MODELS, {**dict(type='ElasticDeiT', arch=arch, img_size=32, patch_size=8), **options}


# Said by a part's constructor.
CONSTRUCTORS = {
    'scale of 0': (hook(initial_scale=dict(depth=0., resolution=0.5)),
                   r'initial_scale\.depth.*\(0, 1\].*0\.0'),
    'scale above 1': (hook(initial_scale=dict(depth=0.5, resolution=1.2)),
                      r'initial_scale\.resolution.*1\.2'),
    'scale of text': (hook(initial_scale=dict(depth='half')), r"initial_scale\.depth.*'half'"),
    'unknown scale': (hook(initial_scale=dict(width=0.5)), r"initial_scale.*\['width'\]"),
    'unknown regularizer': (hook(regularization=dict(mixup=0.5)), r"regularization.*\['mixup'\]"),
    'negative regularizer': (hook(regularization=dict(drop_path=-0.1)),
                             r'regularization\.drop_path.*-0\.1'),
    'no stages': (hook(num_stages=0), r'num_stages.*0'),
    'jump of less than nothing': (hook(max_growth_jump=-1.),
                                  r'max_growth_jump of AutoProgHook.*-1'),
    'limit that has moved': (
        hook(max_batch_per_step=64),
        r"has moved: put dict\(type='MicroBatchHook', max_batch_per_step=64\)"),
    'search of no epochs': (search(epochs=0), r'search\.epochs.*0'),
    'unknown cost': (search(cost='joule'), r"search\.cost.*'joule'"),
    'unknown rule': (search(rule='luck'), r"search\.rule.*'trend', 'compute'.*'luck'"),
    'too few losses for a curve': (search(rule='compute', evals=(2, 9)),
                                   r'needs 3 scorings.*evals=\(2, 9\) makes 2 in search.epochs=1'),
    'no evaluation': (search(evals=(0, 1)), r'search\.evals\[0\].*0'),
    'evaluations of text': (search(evals='often'), r"search\.evals.*'often'"),
    'no batches to score': (search(eval_batches=0), r'search\.eval_batches.*0'),
    'speed-up of less than one': (hook(speedup=0.5), r'speedup must be .*at least 1, but got 0\.5'),
    'shares without a speed-up': (hook(stage_shares=[1, 1, 1, 1]), 'Set speedup of AutoProgHook'),
    'shares of other stages': (hook(speedup=2, stage_shares=[1, 1]),
                               r'stage_shares must be 4 numbers.*\[1, 1\]'),
    'shares of nothing': (hook(speedup=2, stage_shares=[0, 0, 0, 0]), 'must have a positive sum'),
    'negative share': (hook(speedup=2, stage_shares=[1, 1, -1, 1]),
                       r'stage_shares\[2\] must be a number of at least 0, but got -1'),
    'speed-up of no number': (hook(speedup=float('nan')), 'speedup must be .*, but got nan'),
    'unknown budget': (hook(budget='joule'), "budget must be one of .*'joule'"),
    'decay of 1': (wrapper(ema_decays=(0.9, 1.)), r'ema_decays.*\(0, 1\)'),
    'no decays': (wrapper(ema_decays=()), r'ema_decays.*empty'),
    'unknown operator': (wrapper(growth=dict(type='Grow')), r"growth.*'MoGrow'.*'Grow'"),
    'unknown optimizer state': (wrapper(optimizer_state='drop'), r"optimizer_state.*'drop'"),
    'bad images': (guard(max_bad_images=-1), 'max_bad_images.*-1'),
    'nonfinite losses': (guard(max_nonfinite=0), 'max_nonfinite.*0'),
    'checkpoint before a beginning': (saver(save_begin=-1), 'save_begin.*less than 0'),
    'mistyped checkpoint hook': (saver(max_keep_ckpt=3), r"\['max_keep_ckpt'\]"),
    'size against patch': (deit(img_size=36), r'img_size.*36.*patch_size'),
    'rate of drop path': (deit(drop_path_rate=1.),
                          r'drop_path_rate must be a number in \[0, 1\).*1\.0'),
    'crop that is not square': (
        (TRANSFORMS, dict(type='ProgressiveRandomResizedCrop', scale=(32, 24))),
        r'must be square.*24'),
    **{f'limit of {value}': ((HOOKS, dict(type='MicroBatchHook', max_batch_per_step=value)),
                             'max_batch_per_step of MicroBatchHook must be an int')
       for value in (0, -1, 2.5, True, None)},
}
# Python itself calls a mistyped key a TypeError, where no part takes any.
MISTYPED = {
    'num_stage': hook(num_stage=4),
    'epoch': search(epoch=1),
    'max_bad': guard(max_bad=3),
    'momentum': (HOOKS, dict(type='MoGrowEMAHook', momentum=0.1)),
    'mode': (HOOKS, dict(type='CompileHook', mode='default')),
    'ema_decay': wrapper(ema_decay=(0.9, )),
    'power': wrapper(growth=dict(type='MoGrow', power=2)),
    'sacle': (TRANSFORMS, dict(type='ProgressiveRandomResizedCrop', sacle=32)),
    'levle': (TRANSFORMS, dict(type='ProgressiveRandAugment', levle=1)),
    'erase_porb': (TRANSFORMS, dict(type='ProgressiveRandomErasing', erase_porb=1.)),
    'drop_path': deit(drop_path=0.1),
    'means': (MODELS, dict(type='ElasticDataPreprocessor', means=[0.])),
}


@pytest.fixture(autouse=True)
def any_optimizer(monkeypatch):
    """A wrapper's own arguments are looked at, not mmengine's."""
    init = OptimWrapper.__init__
    monkeypatch.setattr(OptimWrapper, '__init__', lambda self, optimizer=None, **options: init(
        self, optimizer, **options) if optimizer is not None else _refuse(options))


def _refuse(options):
    if options:
        raise TypeError(f'unexpected keyword argument {next(iter(options))!r}')


@pytest.mark.parametrize('name', CONSTRUCTORS)
def test_constructors_tell_of_mistakes(name):
    (registry, cfg), message = CONSTRUCTORS[name]
    with pytest.raises(ValueError, match=message):
        registry.build(cfg)


@pytest.mark.parametrize('key', MISTYPED)
def test_mistyped_keys_are_not_ignored(key):
    registry, cfg = MISTYPED[key]
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{key}'|takes no arguments"):
        registry.build(cfg)


def set_hook(**options):
    return lambda cfg: cfg.custom_hooks[0].update(options)


def two_crops(cfg):
    pipeline = cfg.train_dataloader.dataset.pipeline
    pipeline.insert(2, pipeline[1])


def without_growth(cfg):
    cfg.optim_wrapper.type = 'OptimWrapper'
    del cfg.optim_wrapper['ema_decays']


# Said when the parts of a run meet.
TOGETHER = {
    'precision': (lambda cfg: cfg.env_cfg.update(float32_matmul_precision='tf32'),
                  r"env_cfg\.float32_matmul_precision.*'highest'.*'tf32'"),
    'more stages than epochs': (set_hook(num_stages=9), r'num_stages \(9\).*max_epochs \(8\)'),
    'search too long': (set_hook(search={**SEARCH, 'epochs': 3}),
                        r'search\.epochs \(3\).*stage 0 has 2 epochs'),
    'equal compute of no budget': (
        set_hook(search={**SEARCH, 'rule': 'compute', 'evals': (3, 1)}),
        r"search\.rule='compute'.* needs speedup of AutoProgHook"),
    'divisor against patch': (set_hook(resolution_divisor=2),
                              r'resolution \(22\).*divisible by 8.*resolution_divisor'),
    'divisor against resolution': (set_hook(resolution_divisor=12),
                                   r'resolution_divisor \(12\).*\(32\)'),
    'rigid backbone': (lambda cfg: cfg.model.backbone.update(type='VisionTransformer'),
                       r'elastic model\.backbone.*VisionTransformer'),
    'no progressive crop': (lambda cfg: cfg.train_dataloader.dataset.pipeline[1].update(
        type='RandomResizedCrop'), r'exactly one ProgressiveRandomResizedCrop.*has 0'),
    'two progressive crops': (two_crops, r'exactly one ProgressiveRandomResizedCrop.*has 2'),
    'crop of another size': (lambda cfg: cfg.train_dataloader.dataset.pipeline[1].update(scale=24),
                             r'scale.*\(24\).*img_size.*\(32\)'),
    'wrapper that cannot grow': (lambda cfg: (without_growth(cfg), cfg.custom_hooks.pop()),
                                 r'optim_wrapper\.type.*got OptimWrapper'),
    'no momentum to validate with': (lambda cfg: (without_growth(cfg), cfg.custom_hooks.pop(0)),
                                     r'MoGrowEMAHook needs optim_wrapper\.type.*OptimWrapper'),
    'stock preprocessor with a search': (
        lambda cfg: (set_hook(search=SEARCH)(cfg), cfg.model.data_preprocessor.update(
            type='ClsDataPreprocessor')), r'ElasticDataPreprocessor.*ClsDataPreprocessor'),
    'stock EMA beside growth': (lambda cfg: cfg.custom_hooks.append(dict(type='EMAHook')),
                                'EMAHook.*MoGrowEMAHook in its place'),
    'stock checkpoints': (
        lambda cfg: setattr(cfg.default_hooks, 'checkpoint', dict(type='CheckpointHook')),
        r"CheckpointHook saves objects.*checkpoint=dict\(type='SafeCheckpointHook'\)"),
    'compile without its hook': (
        lambda cfg: (cfg.default_hooks.pop('compile'), setattr(cfg, 'compile', True)),
        r"compile \(True\) needs dict\(type='CompileHook'\)"),
    'a target to compile': (lambda cfg: setattr(cfg, 'compile', dict(target='forward')),
                            r"compile\.target \('forward'\) is not to be set"),
    'checkpoints by step': (
        lambda cfg: (cfg.default_hooks.checkpoint.update(by_epoch=False),
                     cfg.train_cfg.update(type='EpochBasedTrainLoop')),
        "by_epoch=False.*train_cfg.type='ResumableTrainLoop'.*EpochBasedTrainLoop"),
    'more classes than there are': (
        lambda cfg: cfg.val_evaluator.update(topk=(1, 5)),
        r'val_evaluator: Accuracy cannot judge.*Top-5 accuracy is unavailable.*categories is 4'),
    'a metric without a rule': (
        lambda cfg: setattr(cfg, 'val_evaluator', dict(
            type='SingleLabelMetric', items=('support', ))),
        r"'auto', takes the first metric, 'single-label/support'.*rule='greater'"),
    'a metric that is no number': (
        lambda cfg: setattr(cfg, 'val_evaluator', dict(type='ConfusionMatrix')),
        "'confusion_matrix/result', which is no number but a Tensor"),
    'metrics of one name': (
        lambda cfg: setattr(cfg, 'val_evaluator', [dict(type='Accuracy'), dict(type='Accuracy')]),
        "two metrics are both called 'accuracy/top1'. Give one.*prefix"),
    'metric for other labels': (
        lambda cfg: setattr(cfg, 'val_evaluator', dict(type='VOCMultiLabelMetric')),
        r'val_evaluator: VOCMultiLabelMetric cannot judge what the model gives'),
    'best of what is not measured': (
        lambda cfg: cfg.default_hooks.checkpoint.update(save_best='accuracy/top5'),
        r"save_best of SafeCheckpointHook is 'accuracy/top5', but the validation gives "
        r"'accuracy/top1'\. Did you mean 'accuracy/top1'"),
    'a pipeline that would not be switched': (
        lambda cfg: cfg.custom_hooks.append(dict(type='SwitchRecipeHook', schedule=[
            dict(action_epoch=3, train_pipeline=[])])),
        'SwitchRecipeHook with train_pipeline would switch nothing'),
    'patience for what is not measured': (
        lambda cfg: cfg.custom_hooks.append(dict(type='EarlyStoppingHook', monitor='accuracy')),
        r"monitor of EarlyStoppingHook is 'accuracy'"),
    'a plateau of what is not measured': (
        lambda cfg: cfg.param_scheduler.append(
            dict(type='ReduceOnPlateauLR', monitor='top1', rule='greater')),
        r"monitor of ReduceOnPlateauLR is 'top1'"),
    'validation images that cannot be loaded': (
        lambda cfg: cfg.val_dataloader.dataset.pipeline.insert(0, dict(type='PackInputs')),
        'val_dataloader: none of the 8 samples that were tried can be loaded: '),
    'seeds by rank': (lambda cfg: cfg.randomness.update(diff_rank_seed=True),
                      r'randomness\.diff_rank_seed=True.*differ anyway.*Leave it out'),
    'iterations': (lambda cfg: (
        setattr(cfg, 'train_cfg', dict(by_epoch=False, max_iters=8)),
        setattr(cfg, 'param_scheduler', None)), r'EpochBasedTrainLoop.*IterBasedTrainLoop'),
    'parts without their loop': (
        lambda cfg: (cfg.train_cfg.update(type='EpochBasedTrainLoop'), cfg.custom_hooks.append(
            dict(type='MicroBatchHook', max_batch_per_step=4))),
        "MicroBatchHook needs train_cfg.type='ResumableTrainLoop'.*EpochBased"),
}


def test_there_are_many_ways_to_break_a_config():
    assert len(CONSTRUCTORS) + len(MISTYPED) + len(TOGETHER) >= 65


@pytest.mark.parametrize('name', TOGETHER)
def test_runs_tell_of_mistakes_before_they_train(jpeg_root, tmp_path, name):
    break_it, message = TOGETHER[name]
    cfg = micro_config(jpeg_root, tmp_path)
    cfg.default_hooks.compile = dict(type='CompileHook')
    break_it(cfg)
    steps = []

    class Steps(Hook):

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            steps.append(batch_idx)

    with pytest.raises(UserError, match=message):
        run(cfg, Steps())
    assert steps == []
    assert not (tmp_path / 'autoprog.json').exists()
