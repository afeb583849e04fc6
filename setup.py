# Copyright (c) the autoprog_mm authors. All rights reserved.
import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
VERSION = {}
exec((HERE / 'autoprog_mm' / 'version.py').read_text(encoding='utf-8'), VERSION)

# What OpenMMLab's packages carry inside of themselves, in a folder .mim, where
# mmengine, mmpretrain and mim look for it.
EXTENSION = Path('autoprog_mm', '.mim')
EXTENDED_BY = ('configs', 'tools', 'model-index.yml')


class BuildWithExtension(build_py):
    """Brings configs, tools and the model index into the package.

    Into what is built as copies; an editable installation gets links to them,
    which git ignores.
    """

    def run(self) -> None:
        super().run()
        target = (HERE if self.editable_mode else Path(self.build_lib)) / EXTENSION
        # Of an earlier installation, which may have had other files.
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name in EXTENDED_BY:
            if not self.editable_mode or not self._link(target / name):
                self._copy(HERE / name, target / name)

    @staticmethod
    def _link(path: Path) -> bool:
        try:
            path.symlink_to(os.path.relpath(HERE / path.name, path.parent))
        except OSError:  # Windows allows it to some users only
            return False
        return True

    @staticmethod
    def _copy(source: Path, path: Path) -> None:
        if source.is_dir():
            shutil.copytree(source, path, ignore=shutil.ignore_patterns('__pycache__', '*.py[cod]'))
        else:
            shutil.copy2(source, path)


# Not in build/, where files that no longer exist would be found and packed.
with TemporaryDirectory() as build_base:
    setup(
        name='autoprog-mm',
        version=VERSION['__version__'],
        description='AutoProg on MMEngine: automated progressive learning for Vision Transformers',
        long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
        long_description_content_type='text/markdown',
        license='Apache-2.0',
        packages=find_packages(include=['autoprog_mm', 'autoprog_mm.*']),
        package_data={'autoprog_mm.report': ['templates/*']},
        cmdclass=dict(build_py=BuildWithExtension),
        options=dict(
            build=dict(build_base=build_base),
            # A path, not a finder: that comes last, after the folder of the
            # clone itself, which has the package's name, too.
            editable_wheel=dict(mode='compat')),
        python_requires='>=3.10',
        install_requires=[
            'mmcv-lite>=2.0.1,<2.3',  # or mmcv, the same package with compiled operators
            'mmengine>=0.10.4,<0.11',
            'mmpretrain>=1.2.0,<1.3',
            'jinja2>=3,<4',  # the page of reports
            'matplotlib',  # pictures of plans and reports
            'numpy',
            'setuptools<81',  # mmengine needs its pkg_resources
            'timm>=1.0.20,<2',
            'torch>=2.6',  # from here on torch.load refuses what could run code
            'torchvision',
            'yapf',  # writes the configs that tools/overlay.py makes
        ],
        extras_require=dict(
            demo=['mlxtend'],
            tests=['mlxtend', 'pytest', 'pytest-xdist', 'ruff', 'tensorboard'],
        ),
        classifiers=[
            'License :: OSI Approved :: Apache Software License',
            'Programming Language :: Python :: 3',
            'Topic :: Scientific/Engineering :: Artificial Intelligence',
        ],
        # The configs inside are read as files.
        zip_safe=False)
