# Copyright (c) the autoprog_mm authors. All rights reserved.
import importlib.util

import pytest
import torch

import autoprog_mm.compat as compat

needs_torchvision = pytest.mark.skipif(
    importlib.util.find_spec('torchvision') is None, reason='torchvision is not installed')


@needs_torchvision
def test_missing_operators_are_not_faked():
    assert torch.ops.torchvision.nms is not None
    if compat._TORCHVISION_SCHEMAS is None:
        pytest.skip('the binary of torchvision works here')
    with pytest.raises(NotImplementedError, match='torchvision::nms'):
        torch.ops.torchvision.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)


@needs_torchvision
def test_second_call_says_the_same():
    first = compat.define_missing_torchvision_ops()
    assert first == (compat._TORCHVISION_SCHEMAS is not None)
    assert compat.define_missing_torchvision_ops() == first


def test_without_torchvision(monkeypatch):
    monkeypatch.setattr(compat, '_TORCHVISION_SCHEMAS', None)
    monkeypatch.setattr(compat.importlib.util, 'find_spec', lambda name: None)
    assert compat.define_missing_torchvision_ops() is False
    assert compat._TORCHVISION_SCHEMAS is None


@pytest.fixture
def fake_torchvision(monkeypatch, tmp_path):
    """A torchvision whose binary loads or not, and the libraries defined."""
    (tmp_path / '_C.so').touch()
    spec = importlib.util.spec_from_loader('torchvision', loader=None, is_package=True)
    spec.submodule_search_locations.append(str(tmp_path))
    monkeypatch.setattr(compat, '_TORCHVISION_SCHEMAS', None)
    monkeypatch.setattr(compat.importlib.util, 'find_spec', lambda name: spec)
    defined = []

    class FakeLibrary:

        def __init__(self, namespace, kind):
            assert (namespace, kind) == ('torchvision', 'DEF')

        def define(self, schema):
            defined.append(schema)

    monkeypatch.setattr(torch.library, 'Library', FakeLibrary)
    return defined


def test_binary_that_loads_is_left_alone(monkeypatch, tmp_path, fake_torchvision):
    loaded = []
    monkeypatch.setattr(torch.ops, 'load_library', loaded.append)
    assert compat.define_missing_torchvision_ops() is False
    assert loaded == [str(tmp_path / '_C.so')]
    assert fake_torchvision == []


def test_binary_that_does_not_load(monkeypatch, fake_torchvision):

    def fail(path):
        raise OSError('libcudart.so: cannot open shared object file')

    monkeypatch.setattr(torch.ops, 'load_library', fail)
    assert compat.define_missing_torchvision_ops() is True
    assert [schema.split('(')[0] for schema in fake_torchvision] == ['nms', 'qnms']
    assert compat.define_missing_torchvision_ops() is True
    assert len(fake_torchvision) == 2


def test_adjust_bbox_needs_no_renderer(monkeypatch):
    """As mmpretrain's browse_dataset.py calls it, whatever the matplotlib."""
    from matplotlib import _tight_bbox
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox
    monkeypatch.setattr(_tight_bbox, 'adjust_bbox', _tight_bbox.adjust_bbox)
    compat.give_adjust_bbox_a_renderer()
    assert compat.give_adjust_bbox_a_renderer() is False  # once is enough
    figure = Figure(figsize=(4, 3), dpi=10)
    FigureCanvasAgg(figure)
    figure.add_subplot()
    _tight_bbox.adjust_bbox(figure, Bbox([[1, 1], [3, 2]]))
    assert (figure.bbox.width, figure.bbox.height) == (20, 10)
