# Copyright (c) the autoprog_mm authors. All rights reserved.
import os

import pytest

from autoprog_mm.datasets.image_files import (
    describe_passed_over,
    find_image_files,
    has_images,
    is_image,
)
from tests.test_datasets.class_folders import names, write


@pytest.mark.parametrize('name, expected', [
    ('a.jpg', True), ('a.JPEG', True), ('a.b.Png', True), ('a.webp', True), ('a.tiff', True),
    ('.a.jpg', False), ('._a.jpg', False), ('a.gif', False), ('jpg', False), ('a.jpg.txt', False)])
def test_is_image(name, expected):
    assert is_image(name) == expected


class TestFind:

    def test_all_below(self, tmp_path):
        root = write(tmp_path, 'b/2.jpg', 'b/10.PNG', 'a/x/y/1.webp', 'z.bmp', '.c/1.jpg',
                     'b/.ipynb_checkpoints/2.jpg', '__MACOSX/1.jpg', 'b/Thumbs.db', 'note')
        found = find_image_files(root)
        assert found.files == ['a/x/y/1.webp', 'b/10.PNG', 'b/2.jpg', 'z.bmp']
        assert found.ignored == {'.db': 1, 'without a type': 1}
        assert not found.links and not found.twice
        assert len(found.folders) == 5  # itself, a, a/x, a/x/y and b

    @pytest.mark.parametrize('around', ['.', '..', '../..', '../../..', '/'])
    def test_links_to_folders_around(self, tmp_path, around):
        root = tmp_path / 'deep' / 'root'
        write(root, *names('a/b', 2), *names('c', 3))
        write(tmp_path / 'deep', *names('other', 3))
        (root / 'a' / 'b' / 'loop').symlink_to(around)
        found = find_image_files(str(root))
        assert found.files == names('a/b', 2) + names('c', 3)
        assert found.links == ['a/b/loop'] and not found.twice

    def test_a_link_inside_of_a_linked_folder(self, tmp_path):
        write(tmp_path, *names('store/a', 2), *names('store/b', 2))
        (tmp_path / 'root').mkdir()
        (tmp_path / 'root' / 'a').symlink_to(tmp_path / 'store' / 'a')
        (tmp_path / 'store' / 'a' / 'up').symlink_to('..')
        found = find_image_files(str(tmp_path / 'root'))
        assert found.files == names('a', 2) and found.links == ['a/up']

    def test_links_that_lead_nowhere(self, tmp_path):
        root = write(tmp_path, *names('a', 1))
        (tmp_path / 'a' / 'gone.jpg').symlink_to('nothing.jpg')
        (tmp_path / 'a' / 'self.jpg').symlink_to('self.jpg')
        (tmp_path / 'a' / 'gone').symlink_to('nothing')
        found = find_image_files(root)
        assert found.files == ['a/0.jpg']
        assert found.links == ['a/gone', 'a/gone.jpg', 'a/self.jpg']

    def test_the_same_twice(self, tmp_path):
        root = tmp_path / 'root'
        write(root, *names('a', 2), *names('b', 1), *names('c/d', 1))
        write(tmp_path / 'store', '1.jpg', '2.jpg')
        (root / 'a' / 'more').symlink_to('../c')
        (root / 'b' / 'x.jpg').symlink_to('../a/1.jpg')
        for link in ('a/s.jpg', 'b/s.jpg'):
            (root / link).symlink_to(tmp_path / 'store' / '1.jpg')
        (root / 'b' / 't.jpg').symlink_to(tmp_path / 'store' / '2.jpg')
        found = find_image_files(str(root))
        assert sorted(found.twice) == [('a/1.jpg', 'b/x.jpg'), ('a/more', 'c'),
                                       ('a/more/d', 'c/d'), ('a/s.jpg', 'b/s.jpg')]
        assert len(found.files) == 9 and not found.links

    @pytest.mark.skipif(os.name == 'nt', reason='names are texts there')
    def test_names_that_are_not_utf8(self, tmp_path):
        root = write(tmp_path, *names('a', 1))
        os.rename(tmp_path / 'a' / '0.jpg', os.fsencode(tmp_path) + b'/a/caf\xe9.jpg')
        file, = find_image_files(root).files
        assert os.fsencode(file) == b'a/caf\xe9.jpg'


def test_what_is_passed_over(tmp_path):
    root = write(tmp_path, 'a/1.gif', 'a/2.gif', 'a/3.txt', 'a/4.jpg')
    (tmp_path / 'a' / 'loop').symlink_to('.')
    found = find_image_files(root)
    assert describe_passed_over(found.ignored, found.links) == (
        "3 files of other types (2 .gif, 1 .txt) and 1 links to nothing, or to a folder around "
        "them ('a/loop')")
    assert describe_passed_over({}, []) == ''


def test_has_images(tmp_path):
    write(tmp_path, 'a/b/1.jpg', 'c/.d/1.jpg', 'c/note.txt')
    (tmp_path / 'c' / 'loop').symlink_to('.')
    assert has_images(str(tmp_path / 'a')) and not has_images(str(tmp_path / 'c'))
