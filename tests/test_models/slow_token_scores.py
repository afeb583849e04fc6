# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Targets of tokens from label maps, in slow loops."""
import numpy as np
import torch

NUM_CLASSES = 6
WHOLE = (0., 1., 0., 1.)


def random_map(height, width, k=3, seed=0):
    """A label map: (2, k, H, W), scores before the classes."""
    rng = np.random.RandomState(seed)
    scores = rng.normal(0, 2, (k, height, width))
    classes = rng.rand(NUM_CLASSES, height, width).argsort(0)[:k]
    return torch.tensor(np.stack([scores, classes]), dtype=torch.float32)


def slow_means(label, box, grid, points, num_classes=NUM_CLASSES):
    """Mean scores of each token over ``points`` x ``points`` places in it, one by one."""
    _, k, height, width = label.shape
    dense = np.zeros((height, width, num_classes))
    for y in range(height):
        for x in range(width):
            for i in range(k):
                dense[y, x, int(label[1, i, y, x])] = label[0, i, y, x]

    def at(y, x):
        """Bilinear, y and x as fractions; cell i has its centre at (i + 0.5) / cells."""
        y, x = y * height - 0.5, x * width - 0.5
        y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
        y0, x0 = int(np.floor(y)), int(np.floor(x))
        y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
        dy, dx = y - y0, x - x0
        return (1 - dy) * ((1 - dx) * dense[y0, x0] + dx * dense[y0, x1]) + \
            dy * ((1 - dx) * dense[y1, x0] + dx * dense[y1, x1])

    rows, columns = points
    top, bottom, left, right = map(float, box)
    means = np.zeros((*grid, num_classes))
    for r in range(grid[0]):
        for c in range(grid[1]):
            for i in range(rows):
                for j in range(columns):
                    y = top + (bottom - top) * (r + (i + 0.5) / rows) / grid[0]
                    x = left + (right - left) * (c + (j + 0.5) / columns) / grid[1]
                    means[r, c] += at(y, x) / (rows * columns)
    return means


def softmax(scores):
    exponentials = np.exp(scores - scores.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def slow_scores(label, box, grid, points):
    return softmax(slow_means(label, box, grid, points))
