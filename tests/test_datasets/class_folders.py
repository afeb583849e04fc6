# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Folders of small images."""
import cv2
import numpy as np


def write(root, *files):
    """Write images, and other files as what their names say."""
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in ('.jpg', '.png', '.webp', '.bmp'):
            image = np.full((8, 10, 3), 90, np.uint8)
            path.write_bytes(cv2.imencode(path.suffix.lower(), image)[1].tobytes())
        else:
            path.write_text('text')
    return str(root)


def names(folder, count):
    return [f'{folder}/{i}.jpg' for i in range(count)]
