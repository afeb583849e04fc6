# Copyright (c) the autoprog_mm authors. All rights reserved.
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = {}
exec((HERE / 'autoprog_mm' / 'version.py').read_text(encoding='utf-8'), VERSION)

setup(
    name='autoprog-mm',
    version=VERSION['__version__'],
    description='AutoProg on MMEngine: automated progressive learning for Vision Transformers',
    long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['autoprog_mm', 'autoprog_mm.*']),
    python_requires='>=3.10',
    install_requires=[
        'mmcv-lite>=2.0.1,<2.3',  # or mmcv, the same package with compiled operators
        'mmengine>=0.10.4,<0.11',
        'mmpretrain>=1.2.0,<1.3',
        'numpy',
        'setuptools<81',  # mmengine needs its pkg_resources
        'timm>=1.0.20,<2',
        'torch>=2.6',  # from here on torch.load refuses what could run code
        'torchvision',
    ],
    extras_require=dict(
        demo=['mlxtend', 'matplotlib'],
        tests=['mlxtend', 'pytest', 'pytest-xdist', 'ruff', 'tensorboard'],
    ),
    classifiers=[
        'License :: OSI Approved :: Apache Software License',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
)
