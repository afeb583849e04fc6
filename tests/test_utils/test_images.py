# Copyright (c) the autoprog_mm authors. All rights reserved.
import pytest
import torch

from autoprog_mm.utils import resize_batch


class TestResizeBatch:

    def test_values(self):
        images = torch.tensor([[[[0., 2.], [4., 6.]]]])
        # Centres of the four new pixels of a row lie at -1/4, 1/4, 3/4 and
        # 5/4 of the way from the first old one to the second.
        rows = torch.tensor([0., 0.5, 1.5, 2.])
        expected = (2 * rows[:, None] + rows[None, :]).view(1, 1, 4, 4)
        torch.testing.assert_close(resize_batch(images, 4), expected)
        assert resize_batch(images, 1).item() == 3.

    def test_integers(self):
        images = torch.tensor([[[[0, 255], [0, 255]]]], dtype=torch.uint8).expand(2, 3, 2, 2)
        resized = resize_batch(images, 1)
        assert resized.dtype == torch.float32
        assert resized.shape == (2, 3, 1, 1)
        assert (resized == 127.5).all()

    @pytest.mark.parametrize('resolution', [None, 8])
    def test_same_size_is_left_as_it_is(self, resolution):
        images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
        assert resize_batch(images, resolution) is images

    def test_not_square(self):
        assert resize_batch(torch.zeros(1, 3, 8, 4), 8).shape == (1, 3, 8, 8)
