# Copyright (c) the autoprog_mm authors. All rights reserved.
import os
import re
import shutil
import signal

import autoprog_mm  # noqa: F401  (before anything that imports torchvision)

# isort: split
import pytest
from mmengine.hooks import Hook

from autoprog_mm.engine import RunGuardHook
from tests.micro import STEPS, differences, load, micro_config, run
from tests.test_engine.resuming import EXACT, assert_same_state
from tests.test_engine.short_runs import resumed, run_until

SEARCH = dict(type='OneShotSearch', epochs=1, eval_batches=2, evals=(2, 1), cost='flops')


def send(*numbers):

    def kill():
        for number in numbers:
            os.kill(os.getpid(), number)

    return kill


class AtStep(Hook):
    """Does something in a step of a run, counted from 1."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter + 1 == self.step:
            self.action()


class InValidation(Hook):
    """Does something in the validation of an epoch, counted from 1."""

    def __init__(self, epoch, action):
        self.epoch, self.action = epoch, action

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.epoch == self.epoch and batch_idx == 0:
            self.action()


def log_of(work_dir):
    return max(work_dir.glob('*/*.log')).read_text()


@pytest.fixture(autouse=True)
def own_handlers():
    """What a run that was stopped leaves behind must not outlive its test."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before):
        assert signal.getsignal(number) is handler
        signal.signal(number, handler)


@pytest.fixture(scope='module')
def whole(jpeg_root, tmp_path_factory):
    """A search, an epoch of its choice, a growth with the next search."""
    folder = tmp_path_factory.mktemp('whole')
    run_until(3, micro_config(jpeg_root, folder, SEARCH))
    return folder


class TestSignals:

    @pytest.mark.parametrize('name, code, step', [
        ('SIGTERM', 143, 4), ('SIGINT', 130, STEPS), ('SIGTERM', 143, 9),
        ('SIGUSR1', 138, 2 * STEPS + 1)])
    def test_in_a_step(self, whole, jpeg_root, tmp_path, capfd, name, code, step):
        """In a search, at its epoch's last step, in a chosen subnet, after growth."""
        cfg = micro_config(jpeg_root, tmp_path, SEARCH)
        epoch = (step - 1) // STEPS + 1
        begun = cfg if epoch == 1 else resumed(cfg, whole / f'epoch_{epoch - 1}.pth')
        with pytest.raises(SystemExit) as stopped:
            run(begun, AtStep(step, send(getattr(signal, name))))
        assert stopped.value.code == code
        assert f'got {name}: the step under way is finished' in capfd.readouterr().err
        path, text = tmp_path / f'iter_{step}.pth', log_of(tmp_path)
        assert f'Stopped by {name} in epoch {epoch}, after step {step}' in text
        assert str(path) in text and '--resume' in text
        meta = load(path)['meta']
        assert (meta['epoch'], meta['iter']) == ((step - 1) // STEPS, step)
        run_until(epoch, resumed(cfg))
        assert_same_state(whole / f'epoch_{epoch}.pth', tmp_path / f'epoch_{epoch}.pth')

    @pytest.mark.parametrize('interval', [1, 4])
    def test_in_a_validation(self, whole, jpeg_root, tmp_path, interval):
        """What is saved is not the momentum weights, and the validation is done again."""
        cfg = micro_config(
            jpeg_root, tmp_path, SEARCH, default_hooks__checkpoint__interval=interval)
        with pytest.raises(SystemExit) as stopped:
            run(resumed(cfg, whole / 'epoch_2.pth'), InValidation(3, send(signal.SIGTERM)))
        assert stopped.value.code == 143
        assert 'Stopped by SIGTERM in the validation of epoch 3' in log_of(tmp_path)
        assert_same_state(whole / 'epoch_3.pth', tmp_path / 'epoch_3.pth')
        runner = run_until(3, resumed(cfg))
        assert runner.iter == 3 * STEPS
        assert 'Validating epoch 3' in log_of(tmp_path)

    def test_waits_for_gradients_that_accumulate(self, jpeg_root, tmp_path):
        options = dict(optim_wrapper__accumulative_counts=3)
        run_until(2, micro_config(jpeg_root, tmp_path / 'whole', **options))
        cfg = micro_config(jpeg_root, tmp_path / 'broken', **options)
        with pytest.raises(SystemExit):
            run(resumed(cfg, tmp_path / 'whole' / 'epoch_1.pth'), AtStep(7, send(signal.SIGTERM)))
        assert [path.name for path in (tmp_path / 'broken').glob('iter_*')] == ['iter_9.pth']
        run_until(2, resumed(cfg))
        assert_same_state(*(tmp_path / name / 'epoch_2.pth' for name in ('whole', 'broken')))

    def test_stock_loop_saves_at_ends_of_epochs_only(self, jpeg_root, tmp_path):
        cfg = micro_config(jpeg_root, tmp_path, train_cfg=dict(
            _delete_=True, by_epoch=True, max_epochs=8, val_interval=1))
        with pytest.raises(SystemExit) as stopped:
            run(cfg, AtStep(9, send(signal.SIGTERM)))
        assert stopped.value.code == 143
        assert [path.name for path in tmp_path.glob('*_*.pth')
                if not path.name.startswith('best')] == ['epoch_1.pth']
        text = log_of(tmp_path)
        assert "needs train_cfg.type='ResumableTrainLoop'" in text
        assert f'The last checkpoint is {tmp_path / "epoch_1.pth"}' in text

    def test_ignored_signal_stays_ignored(self, jpeg_root, tmp_path):
        """As Ctrl-C is by a job that a shell has started in the background."""
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            runner = run_until(
                1, micro_config(jpeg_root, tmp_path), AtStep(3, send(signal.SIGINT)))
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        finally:
            signal.signal(signal.SIGINT, before)
        assert runner.iter == STEPS

    def test_second_ctrl_c_stops_at_once(self, jpeg_root, tmp_path, monkeypatch):
        monkeypatch.setattr('autoprog_mm.engine.guard.signals._REPEAT_SECONDS', 0.)
        with pytest.raises(KeyboardInterrupt):
            run(micro_config(jpeg_root, tmp_path), AtStep(3, send(signal.SIGINT, signal.SIGINT)))
        assert not list(tmp_path.glob('iter_*'))


def spoil(folder, names, content=b'no image'):
    for name in names:
        (folder / 'train' / name).write_bytes(content)
    return [str(folder / 'train' / name) for name in names]


@pytest.fixture
def own_images(jpeg_root, tmp_path):
    return shutil.copytree(jpeg_root, tmp_path / 'images')


class TestBadImages:

    SPOILED = ('class_0/3.jpg', 'class_2/0.jpg')

    def test_named_counted_and_replaced(self, own_images, tmp_path):
        """Of each kind one, in training and in the scoring of a search; as many as allowed."""
        paths = [*spoil(own_images, ['class_0/3.jpg'], b''),
                 *spoil(own_images, ['class_2/0.jpg'], b'no image'),
                 *spoil(own_images, ['class_3/2.jpg'], b'\xff\xd8\xff\xe0 cut off'),
                 str(own_images / 'train' / 'class_1' / '5.jpg')]
        os.remove(paths[-1])
        runner = run(micro_config(
            own_images, tmp_path / 'run', SEARCH, train_cfg__max_epochs=2,
            custom_hooks__0__num_stages=2, default_hooks__guard__max_bad_images=4))
        assert runner.iter == 2 * STEPS
        text = log_of(tmp_path / 'run')
        for path in paths:
            # Once, though it was met in each epoch.
            assert text.count(f'The image {path!r} cannot be read (') == 1
        assert "class_1/5.jpg' cannot be read (FileNotFoundError" in text
        assert '4 images could not be read, and others took their places' in text
        state = load(tmp_path / 'run' / 'epoch_2.pth')['run_guard']
        assert sorted(state['bad_images']) == sorted(paths)

    def test_workers_make_no_difference(self, own_images, tmp_path):
        spoil(own_images, self.SPOILED)
        results = []
        for workers in (0, 2):
            folder = tmp_path / f'run_{workers}'
            run_until(1, micro_config(own_images, folder, workers=workers))
            results.append(load(folder / 'epoch_1.pth'))
        for key in (*EXACT, 'run_guard'):
            assert differences(results[0][key], results[1][key], key) == []
        assert len(results[0]['run_guard']['bad_images']) == 2

    def test_too_many(self, own_images, tmp_path):
        paths = spoil(own_images, [f'class_1/{i}.jpg' for i in range(6)])
        cfg = micro_config(own_images, tmp_path / 'run', default_hooks__guard__max_bad_images=3)
        with pytest.raises(RuntimeError, match=r'more than max_bad_images \(3\)') as stopped:
            run(cfg)
        named = [path for path in paths if path in str(stopped.value)]
        assert len(named) >= 4

    def test_known_ones_are_counted_after_a_resume(self, own_images, tmp_path):
        spoil(own_images, self.SPOILED)
        cfg = micro_config(own_images, tmp_path / 'run')
        run_until(1, cfg)
        spoil(own_images, ['class_3/7.jpg'])
        cfg.default_hooks.guard.max_bad_images = 2
        with pytest.raises(RuntimeError, match='^3 images could not be read'):
            run(resumed(cfg))

    def test_errors_of_other_transforms_are_errors(self, own_images, tmp_path):
        cfg = micro_config(own_images, tmp_path / 'run')
        cfg.train_dataloader.dataset.pipeline.insert(1, dict(type='Resize', scale=(0, 0)))
        with pytest.raises(Exception, match='resize') as error:
            run(cfg)
        assert not isinstance(error.value, SystemExit)

    def test_a_folder_of_nothing_else_is_an_error(self, own_images, tmp_path):
        spoil(own_images, [f'class_{c}/{i}.jpg' for c in range(4) for i in range(12)])
        with pytest.raises(AssertionError, match='failed to load image'):
            run(micro_config(own_images, tmp_path / 'run'))


class Poison(Hook):
    """Makes the loss of some steps something else, and the gradients of some not finite."""

    def __init__(self, values, gradients=()):
        self.values, self.gradients = values, gradients
        self.before, self.after = {}, {}

    def before_train(self, runner):
        head = runner.model.head
        plain = head.loss

        def loss(*args, **kwargs):
            losses = plain(*args, **kwargs)
            factor = self.values.get(runner.iter, 1.)
            return {name: value * factor for name, value in losses.items()}

        head.loss = loss
        head.layers.head.weight.register_hook(
            lambda g: g * (NAN if runner.iter in self.gradients else 1.))

    def _state(self, runner):
        wrapper = runner.optim_wrapper
        moments = [t for p in runner.model.parameters()
                   for t in wrapper.optimizer.state.get(p, {}).values()]
        return [t.detach().clone() for t in [
            *runner.model.parameters(), *wrapper.momentum_weights(0).values(),
            *wrapper.momentum_weights(1).values(), *moments]] + [
                wrapper.state_dict()['momentum']['steps']]

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.before[runner.iter] = self._state(runner)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.after[runner.iter] = self._state(runner)


NAN, INF = float('nan'), float('inf')


class TestLosses:

    def test_reported_and_left_out(self, jpeg_root, tmp_path):
        """Weights, both momentum copies, moments and counts stay; the updates are counted."""
        values = {9: INF, 10: -INF, 11: NAN, 13: NAN}
        poison = Poison(values, gradients=(7, ))
        runner = run_until(3, micro_config(jpeg_root, tmp_path, SEARCH), poison)
        assert runner.iter == 3 * STEPS
        for step in poison.before:
            same = differences(poison.before[step], poison.after[step]) == []
            assert same == (step in (7, *values)), step
        assert all(p.isfinite().all() for p in runner.model.parameters())
        lines = log_of(tmp_path).splitlines()
        assert sum('Its update is left out' in line for line in lines) == 5
        # Steps and epochs count from 0 above.
        for what, place in (('The gradients are not finite', 'epoch 2, step 2'),
                            ('The loss is inf', 'epoch 2, step 4'),
                            ('The loss is -inf', 'epoch 2, step 5'),
                            ('The loss is nan', 'epoch 2, step 6'),
                            ('The loss is nan', 'epoch 3, step 2')):  # in a search
            line, = [line for line in lines if f'in {place}, ' in line]
            assert what in line and re.search(r', \dx\d\d, learning rate 0\.00', line)
        assert [load(tmp_path / f'epoch_{i}.pth')['run_guard']['bad_steps'] for i in (1, 2, 3)] \
            == [0, 3, 0]

    def test_too_many_in_a_row(self, jpeg_root, tmp_path):
        cfg = micro_config(jpeg_root, tmp_path, default_hooks__guard__max_nonfinite=4)
        # Three in a row are borne, four are not.
        poison = Poison({step: NAN for step in (1, 2, 3, 8, 9, 10, 11)})
        message = r'not finite in 4 updates in a row \(max_nonfinite\)'
        with pytest.raises(RuntimeError, match=message) as stopped:
            run(cfg, poison)
        assert max(poison.before) == 11
        assert str(tmp_path / 'epoch_1.pth') in str(stopped.value)
        state = load(tmp_path / 'epoch_1.pth')
        assert all(t.isfinite().all() for t in state['online_state_dict'].values())

    def test_too_many_in_a_row_while_accumulating(self, jpeg_root, tmp_path):
        """One of the two steps of each update spoils it."""
        cfg = micro_config(
            jpeg_root, tmp_path, default_hooks__guard__max_nonfinite=3,
            optim_wrapper__accumulative_counts=2)
        # Updates 0 and 1, then 2 is good, then 3, 4 and 5.
        poison = Poison({step: NAN for step in (1, 2, 7, 8, 11)})
        with pytest.raises(RuntimeError, match='not finite in 3 updates in a row'):
            run(cfg, poison)
        assert max(poison.before) == 11


@pytest.mark.parametrize('options, match', [
    (dict(max_bad_images=-1), 'max_bad_images of RunGuardHook .* at least 0, but got -1'),
    (dict(max_bad_images=2.5), 'max_bad_images of RunGuardHook must be an int'),
    (dict(max_nonfinite=0), 'max_nonfinite of RunGuardHook .* at least 1, but got 0'),
    (dict(max_nonfinite=True), 'max_nonfinite of RunGuardHook must be an int'),
])
def test_bad_arguments(options, match):
    with pytest.raises(ValueError, match=match):
        RunGuardHook(**options)
