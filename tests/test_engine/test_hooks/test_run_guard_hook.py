# Copyright (c) the autoprog_mm authors. All rights reserved.
import os
import shutil
import signal
import time

import autoprog_mm  # noqa: F401  (before anything that imports torchvision)

# isort: split
import pytest
import torch
from mmengine.hooks import Hook

from autoprog_mm.engine import RunGuardHook
from tests.micro import (
    STEPS,
    differences,
    load,
    micro_config,
    read_record,
    resume,
    run,
)
from tests.test_engine.test_hooks.test_resume import EXACT, SEARCH, SEARCHES, without_clocks


class At(Hook):
    """Does something in one place of a run."""

    def __init__(self, place, number, action):
        self.place, self.number, self.action, self.count = place, number, action, 0

    def _pass(self, place):
        if place == self.place:
            self.count += 1
            if self.count == self.number:
                self.action()

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self._pass('step')

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self._pass('validation')


def send(number):
    return lambda: os.kill(os.getpid(), number)


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
    folder = tmp_path_factory.mktemp('whole')
    run(micro_config(jpeg_root, folder, SEARCHES[2]))
    return folder


class TestSignals:

    @pytest.mark.parametrize('name, code, step', [
        ('SIGTERM', 143, 4), ('SIGINT', 130, STEPS), ('SIGUSR1', 138, 2 * STEPS + 1),
        ('SIGTERM', 143, 33)])
    def test_in_a_step(self, whole, jpeg_root, tmp_path, capfd, name, code, step):
        """In a search, at its epoch's last step, after growth, in a chosen subnet."""
        cfg = micro_config(jpeg_root, tmp_path, SEARCHES[2])
        with pytest.raises(SystemExit) as stopped:
            run(cfg, At('step', step, send(getattr(signal, name))))
        assert stopped.value.code == code
        output = capfd.readouterr()
        assert f'got {name}: the step under way is finished' in output.err
        path = tmp_path / f'iter_{step}.pth'
        text = (max(tmp_path.glob('*/*.log'))).read_text()
        assert f'Stopped by {name} in epoch {(step - 1) // STEPS + 1}, after step {step}' in text
        assert str(path) in text and '--resume' in text
        meta = load(path)['meta']
        assert (meta['epoch'], meta['iter']) == ((step - 1) // STEPS, step)
        resume(cfg)
        expected, got = load(whole / 'epoch_8.pth'), load(tmp_path / 'epoch_8.pth')
        for key in EXACT:
            assert differences(expected[key], got[key], key) == []
        assert without_clocks(read_record(tmp_path)) == without_clocks(read_record(whole))

    @pytest.mark.parametrize('interval, name', [(1, 'epoch_3.pth'), (4, 'epoch_3.pth')])
    def test_in_a_validation(self, whole, jpeg_root, tmp_path, interval, name):
        """What is saved is not the momentum weights, and the validation is done again."""
        cfg = micro_config(
            jpeg_root, tmp_path, SEARCHES[2], default_hooks__checkpoint__interval=interval)
        # 16 images are two steps of a validation; this is in the third.
        with pytest.raises(SystemExit) as stopped:
            run(cfg, At('validation', 5, send(signal.SIGTERM)))
        assert stopped.value.code == 143
        assert (tmp_path / name).exists()
        resume(cfg)
        expected, got = load(whole / 'epoch_8.pth'), load(tmp_path / 'epoch_8.pth')
        for key in EXACT:
            assert differences(expected[key], got[key], key) == []
        logs = [path.read_text() for path in sorted(tmp_path.glob('*/*.log'))]
        assert 'Validating epoch 3' in logs[-1]
        assert 'Stopped by SIGTERM in the validation of epoch 3' in logs[0]

    def test_waits_for_gradients_that_accumulate(self, jpeg_root, tmp_path):
        options = dict(optim_wrapper__accumulative_counts=3)
        run(micro_config(jpeg_root, tmp_path / 'whole', SEARCH, **options))
        cfg = micro_config(jpeg_root, tmp_path / 'broken', SEARCH, **options)
        with pytest.raises(SystemExit):
            run(cfg, At('step', 7, send(signal.SIGTERM)))
        assert [path.name for path in (tmp_path / 'broken').glob('iter_*')] == ['iter_9.pth']
        resume(cfg)
        expected, got = (load(tmp_path / name / 'epoch_8.pth') for name in ('whole', 'broken'))
        for key in EXACT:
            assert differences(expected[key], got[key], key) == []

    def test_stock_loop_saves_at_ends_of_epochs_only(self, jpeg_root, tmp_path):
        cfg = micro_config(
            jpeg_root, tmp_path, SEARCH, train_cfg=dict(
                _delete_=True, by_epoch=True, max_epochs=8, val_interval=1))
        with pytest.raises(SystemExit) as stopped:
            run(cfg, At('step', 9, send(signal.SIGTERM)))
        assert stopped.value.code == 143
        assert [path.name for path in tmp_path.glob('*_*.pth')
                if not path.name.startswith('best')] == ['epoch_1.pth']
        text = max(tmp_path.glob('*/*.log')).read_text()
        assert "needs train_cfg.type='ResumableTrainLoop'" in text
        assert f'The last checkpoint is {tmp_path / "epoch_1.pth"}' in text

    def test_ignored_signal_stays_ignored(self, jpeg_root, tmp_path):
        """As Ctrl-C is by a job that a shell has started in the background."""
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            runner = run(micro_config(jpeg_root, tmp_path, train_cfg__max_epochs=4),
                         At('step', 3, send(signal.SIGINT)))
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        finally:
            signal.signal(signal.SIGINT, before)
        assert runner.iter == 4 * STEPS

    def test_second_ctrl_c_stops_at_once(self, jpeg_root, tmp_path, monkeypatch):

        def twice():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr('autoprog_mm.engine.hooks.run_guard_hook._REPEAT_SECONDS', 0.04)
        with pytest.raises(KeyboardInterrupt):
            run(micro_config(jpeg_root, tmp_path), At('step', 3, twice))
        assert not list(tmp_path.glob('iter_*'))
        # Right after the first, as a launcher may send it again, it means nothing.
        monkeypatch.setattr('autoprog_mm.engine.hooks.run_guard_hook._REPEAT_SECONDS', 30.)
        with pytest.raises(SystemExit):
            run(micro_config(jpeg_root, tmp_path), At('step', 3, twice))
        assert (tmp_path / 'iter_3.pth').exists()


def spoil(folder, names, content=b'no image'):
    for name in names:
        (folder / 'train' / name).write_bytes(content)
    return [str(folder / 'train' / name) for name in names]


@pytest.fixture
def own_images(jpeg_root, tmp_path):
    return shutil.copytree(jpeg_root, tmp_path / 'images')


class TestBadImages:

    SPOILED = ('class_0/3.jpg', 'class_2/0.jpg')

    @pytest.mark.parametrize('content', [b'', b'no image', b'\xff\xd8\xff\xe0 cut off'])
    def test_named_counted_and_replaced(self, own_images, tmp_path, content):
        paths = spoil(own_images, self.SPOILED, content)
        runner = run(micro_config(own_images, tmp_path / 'run', SEARCH, train_cfg__max_epochs=4,
                                  custom_hooks__0__num_stages=2, param_scheduler__1__end=4))
        assert runner.iter == 4 * STEPS
        text = max((tmp_path / 'run').glob('*/*.log')).read_text()
        for path in paths:
            # Once, though it was met in each epoch.
            assert text.count(f'The image {path!r} cannot be read (') == 1
        assert '2 images could not be read' in text
        state = load(tmp_path / 'run' / 'epoch_4.pth')['run_guard']
        assert sorted(state['bad_images']) == sorted(paths)

    def test_missing_file(self, own_images, tmp_path):
        (own_images / 'train' / 'class_1' / '5.jpg').unlink()
        run(micro_config(own_images, tmp_path / 'run', train_cfg__max_epochs=4))
        text = max((tmp_path / 'run').glob('*/*.log')).read_text()
        assert "class_1/5.jpg' cannot be read (FileNotFoundError" in text

    def test_workers_make_no_difference(self, own_images, tmp_path):
        spoil(own_images, self.SPOILED)
        results = []
        for workers in (0, 2):
            folder = tmp_path / f'run_{workers}'
            run(micro_config(
                own_images, folder, train_dataloader__num_workers=workers,
                train_dataloader__persistent_workers=workers > 0, train_cfg__max_epochs=4))
            results.append(load(folder / 'epoch_4.pth'))
        for key in EXACT:
            assert differences(results[0][key], results[1][key], key) == []

    def test_too_many(self, own_images, tmp_path):
        paths = spoil(own_images, [f'class_1/{i}.jpg' for i in range(6)])
        cfg = micro_config(own_images, tmp_path / 'run', default_hooks__guard__max_bad_images=3)
        with pytest.raises(RuntimeError, match=r'more than max_bad_images \(3\)') as stopped:
            run(cfg)
        named = [path for path in paths if path in str(stopped.value)]
        assert len(named) >= 4

    def test_as_many_as_allowed(self, own_images, tmp_path):
        spoil(own_images, self.SPOILED)
        run(micro_config(own_images, tmp_path / 'run', default_hooks__guard__max_bad_images=2,
                         train_cfg__max_epochs=4))

    def test_known_ones_are_counted_after_a_resume(self, own_images, tmp_path):
        spoil(own_images, self.SPOILED)
        cfg = micro_config(own_images, tmp_path / 'run', train_cfg__max_epochs=8)
        with pytest.raises(SystemExit):
            run(cfg, At('step', 9, send(signal.SIGTERM)))
        spoil(own_images, ['class_3/7.jpg'])
        cfg.default_hooks.guard.max_bad_images = 2
        with pytest.raises(RuntimeError, match='^3 images could not be read'):
            resume(cfg)

    def test_errors_of_other_transforms_are_errors(self, own_images, tmp_path):
        cfg = micro_config(own_images, tmp_path / 'run', train_dataloader__num_workers=0,
                           train_dataloader__persistent_workers=False)
        cfg.train_dataloader.dataset.pipeline.insert(1, dict(type='Resize', scale=(0, 0)))
        with pytest.raises(Exception, match='resize') as error:
            run(cfg)
        assert not isinstance(error.value, SystemExit)

    def test_a_folder_of_nothing_else_is_an_error(self, own_images, tmp_path):
        spoil(own_images, [f'class_{c}/{i}.jpg' for c in range(4) for i in range(12)])
        cfg = micro_config(own_images, tmp_path / 'run', train_dataloader__num_workers=0,
                           train_dataloader__persistent_workers=False)
        with pytest.raises(AssertionError, match='failed to load image'):
            run(cfg)


class Poison(Hook):
    """Makes the loss of some steps something else."""

    def __init__(self, values):
        self.values = values
        self.before, self.after = {}, {}

    def before_train(self, runner):
        head = runner.model.head
        plain = head.loss

        def loss(*args, **kwargs):
            losses = plain(*args, **kwargs)
            factor = self.values.get(runner.iter, 1.)
            return {name: value * factor for name, value in losses.items()}

        head.loss = loss

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

    @pytest.mark.parametrize('value', [NAN, INF, -INF])
    def test_reported_and_left_out(self, jpeg_root, tmp_path, value):
        poison = Poison({13: value, 20: value})
        runner = run(micro_config(jpeg_root, tmp_path, SEARCH), poison)
        assert runner.iter == 8 * STEPS
        for step in poison.before:
            same = differences(poison.before[step], poison.after[step]) == []
            assert same == (step in (13, 20)), step
        assert all(p.isfinite().all() for p in runner.model.parameters())
        text = max(tmp_path.glob('*/*.log')).read_text()
        # Step 13, counted from 0, is the second of the third epoch, in a search.
        assert text.count('Its update is left out') == 2
        line, = [line for line in text.splitlines() if 'in epoch 3, step 2' in line]
        assert f'The loss is {value}' in line and 'Subnet(depth=' in line
        assert 'resolution=' in line and 'learning rate 0.00' in line

    def test_gradients_alone(self, jpeg_root, tmp_path):

        class Hooked(Hook):

            def before_train(self, runner):
                weight = runner.model.head.layers.head.weight
                weight.register_hook(lambda g: g * (NAN if runner.iter == 7 else 1.))

        run(micro_config(jpeg_root, tmp_path), Hooked())
        text = max(tmp_path.glob('*/*.log')).read_text()
        assert text.count('The gradients are not finite in epoch 2, step 2') == 1

    def test_too_many_in_a_row(self, jpeg_root, tmp_path):
        cfg = micro_config(jpeg_root, tmp_path, SEARCH, default_hooks__guard__max_nonfinite=4)
        # Three in a row are borne, four are not.
        poison = Poison({step: NAN for step in (7, 8, 9, 20, 21, 22, 23, 24)})
        message = r'not finite in 4 updates in a row \(max_nonfinite\)'
        with pytest.raises(RuntimeError, match=message) as stopped:
            run(cfg, poison)
        assert max(poison.before) == 23
        assert str(tmp_path / 'epoch_3.pth') in str(stopped.value)
        state = load(tmp_path / 'epoch_3.pth')
        assert all(t.isfinite().all() for t in state['online_state_dict'].values())


    def test_too_many_in_a_row_while_accumulating(self, jpeg_root, tmp_path):
        """One of the three steps of each update spoils it."""
        cfg = micro_config(
            jpeg_root, tmp_path, default_hooks__guard__max_nonfinite=4,
            optim_wrapper__accumulative_counts=3)
        poison = Poison({step: NAN for step in (1, 4, 7, 13, 17, 18, 23)})
        # Updates 0 to 2, then 3 is good, then 4, 5, 6 and 7.
        with pytest.raises(RuntimeError, match='not finite in 4 updates in a row'):
            run(cfg, poison)
        assert max(poison.before) == 23

    def test_the_count_is_saved(self, jpeg_root, tmp_path):
        poison = Poison({step: NAN for step in (9, 10, 11)})
        run(micro_config(jpeg_root, tmp_path), poison)
        assert [load(tmp_path / f'epoch_{i}.pth')['run_guard']['bad_steps'] for i in (1, 2, 3)] \
            == [0, 3, 0]


@pytest.mark.parametrize('options, match', [
    (dict(max_bad_images=-1), 'max_bad_images of RunGuardHook .* at least 0, but got -1'),
    (dict(max_bad_images=2.5), 'max_bad_images of RunGuardHook must be an int'),
    (dict(max_nonfinite=0), 'max_nonfinite of RunGuardHook .* at least 1, but got 0'),
    (dict(max_nonfinite=True), 'max_nonfinite of RunGuardHook must be an int'),
])
def test_bad_arguments(options, match):
    with pytest.raises(ValueError, match=match):
        RunGuardHook(**options)


def test_fingerprint_sees_any_bit():
    from autoprog_mm.utils.ranks import fingerprint
    tensors = [torch.zeros(3), torch.ones(2, dtype=torch.float64), torch.zeros(2).bfloat16()]
    before = fingerprint(tensors)
    tensors[0][1] = -0.
    assert fingerprint(tensors) != before and fingerprint(tensors)[1:] == before[1:]
