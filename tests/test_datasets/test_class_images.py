# Copyright (c) the autoprog_mm authors. All rights reserved.
import contextlib
import hashlib
import os
import random

import pytest

from autoprog_mm.datasets import ClassFolders
from autoprog_mm.datasets.class_images import find_images
from tests.test_datasets.class_folders import names, write


class TestLayouts:

    @pytest.mark.parametrize('train, val', [
        ('train', 'val'), ('train', 'valid'), ('Training', 'Validation'), ('TRAIN', 'test')])
    def test_splits(self, tmp_path, train, val):
        root = write(tmp_path, f'{train}/cat/1.jpg', f'{train}/dog/2.jpg', f'{val}/cat/3.jpg',
                     f'{val}/dog/4.jpg', 'meta/about.txt')
        assert find_images(root, 'train').files == dict(cat=['cat/1.jpg'], dog=['dog/2.jpg'])
        for split in ('val', 'test'):
            images = find_images(root, split)
            assert images.files == dict(cat=['cat/3.jpg'], dog=['dog/4.jpg'])
            assert images.folder == str(tmp_path / val) and images.share == 0

    def test_val_and_test(self, tmp_path):
        root = write(tmp_path, 'train/cat/1.jpg', 'val/cat/2.jpg', 'test/cat/3.jpg')
        assert [find_images(root, split).files['cat'] for split in ('train', 'val', 'test')] == [
            ['cat/1.jpg'], ['cat/2.jpg'], ['cat/3.jpg']]

    def test_test_alone(self, tmp_path):
        root = write(tmp_path, 'test/cat/3.jpg')
        assert find_images(root, 'test').files == dict(cat=['cat/3.jpg'])

    def test_no_folder_to_validate_with(self, tmp_path):
        # The images of a competition to test with have no classes.
        root = write(tmp_path, *names('train/cat', 4), *names('test', 3))
        train, val = (find_images(root, split, 0.25).files['cat'] for split in ('train', 'val'))
        assert (len(train), len(val)) == (3, 1) and not set(train) & set(val)

    @pytest.mark.parametrize('name', ['train', 'test', 'Val'])
    def test_class_with_the_name_of_a_split(self, tmp_path, name):
        root = write(tmp_path, *names('bus', 2), *names(name, 2))
        assert sorted(find_images(root, 'train').files) == sorted(['bus', name])

    def test_what_is_passed_over(self, tmp_path):
        root = write(tmp_path, 'cat/1.JPG', 'cat/2.png', 'cat/old/3.WebP', 'cat/4.Bmp',
                     'cat/.5.jpg', 'cat/.old/6.jpg', 'cat/Thumbs.db', 'cat/7.gif', 'readme',
                     'loose.jpg', '.git/8.jpg', '__MACOSX/cat/9.jpg', '.DS_Store')
        images = find_images(root, 'test', 1)
        assert images.files == dict(
            cat=['cat/1.JPG', 'cat/2.png', 'cat/4.Bmp', 'cat/old/3.WebP'])
        assert images.ignored == {'.db': 1, '.gif': 1, 'without a type': 1}
        assert images.loose == 1
        assert len(images) == 4
        assert images.paths[0] == str(tmp_path / 'cat' / '1.JPG')

    def test_home(self, tmp_path, monkeypatch):
        monkeypatch.setenv('HOME', str(tmp_path))
        write(tmp_path / 'pictures', *names('cat', 2))
        assert find_images('~/pictures', 'test', 1).files == dict(cat=['cat/0.jpg', 'cat/1.jpg'])
        assert len(ClassFolders(data_root='~/pictures', split='test', val_share=1.)) == 2


    def test_what_is_beside_the_splits(self, tmp_path):
        root = write(tmp_path, 'train/cat/1.jpg', 'val/cat/2.jpg', 'test/cat/3.jpg',
                     'valid/cat/4.jpg', 'more/5.jpg', 'meta/about.txt')
        for split in ('train', 'val', 'test'):
            assert find_images(root, split).beside == ['more', 'valid']

    @pytest.mark.parametrize('name', ['train', 'Test'])
    def test_class_with_the_name_of_a_split_and_folders(self, tmp_path, name):
        root = write(tmp_path, *names('bus', 2), *names(f'{name}/steam', 2),
                     *names(f'{name}/diesel', 2))
        for split in ('train', 'val', 'test'):
            with pytest.raises(ValueError, match=f"has '{name}' with folders in it, and beside it "
                               "folders with images, 'bus', so it is not clear what the classes"):
                find_images(root, split)

    def test_two_folders_of_a_split(self, tmp_path):
        root = write(tmp_path, *names('train/cat', 2), *names('Train/cat', 2))
        with pytest.raises(ValueError, match="has the folders 'Train' and 'train', of which only"):
            find_images(root, 'train')

    def test_order_of_classes(self, tmp_path):
        root = write(tmp_path, *(f'{name}/1.jpg' for name in ('10', '2', 'b', 'B', '1')))
        assert list(find_images(root, 'test', 1).files) == ['1', '10', '2', 'B', 'b']
        assert ClassFolders(data_root=root, split='test', val_share=1).CLASSES == (
            '1', '10', '2', 'B', 'b')

    def test_composed_and_decomposed_names(self, tmp_path):
        root = write(tmp_path, *names('train/caf\u00e9', 2), *names('train/d', 1),
                     *names('val/cafe\u0301', 3), *names('val/d', 1))
        train, val = (ClassFolders(data_root=root, split=split) for split in ('train', 'val'))
        assert train.CLASSES == val.CLASSES == ('caf\u00e9', 'd')
        assert len(val) == 4
        known = ClassFolders(data_root=root, split='val', classes=['d', 'cafe\u0301'])
        assert [known[i]['gt_label'] for i in range(4)] == [1, 1, 1, 0]
        write(tmp_path, 'train/cafe\u0301/9.jpg')
        with pytest.raises(ValueError, match=r"two folders of the class 'café', 'cafe.u0301' and"):
            find_images(root, 'train')


class TestLinks:

    def test_to_the_parent(self, tmp_path):
        """36 images were 516, with copies in both train and val."""
        root = write(tmp_path, *(file for name in 'abc' for file in names(name, 12)))
        (tmp_path / 'b' / 'loop').symlink_to(tmp_path)
        train, val = (find_images(root, split) for split in ('train', 'val'))
        assert (len(train), len(val)) == (33, 3)
        assert not set(train.paths) & set(val.paths)
        assert train.links == ['b/loop']

    def test_images_of_two_classes(self, tmp_path):
        root = write(tmp_path, *names('a', 2))
        (tmp_path / 'b').symlink_to('a')
        with pytest.raises(ValueError, match="'a' and 'b' are one by a link, but of two classes"):
            find_images(root, 'train')
        (tmp_path / 'b').unlink()
        write(tmp_path, *names('c', 2))
        (tmp_path / 'c' / 'x.jpg').symlink_to('../a/1.jpg')
        with pytest.raises(ValueError, match="'a/1.jpg' and 'c/x.jpg' are one by a link"):
            find_images(root, 'test')

    def test_images_of_two_splits(self, tmp_path):
        root = write(tmp_path, *names('train/a', 4), *names('train/b', 4))
        (tmp_path / 'train' / 'a' / 'x.jpg').symlink_to('1.jpg')
        with pytest.raises(ValueError, match='the same images would be trained with and validated'):
            find_images(root, 'train')
        write(tmp_path, *names('val/a', 1), *names('val/b', 1))
        assert len(find_images(root, 'train')) == 9  # a copy to train with, which may be meant


class TestHoldingOut:

    @pytest.mark.parametrize('count, share, held_out', [
        (20, 0.1, 2), (20, 0.25, 5), (14, 0.1, 1), (16, 0.1, 2), (3, 0.1, 1), (2, 0.9, 1)])
    def test_share_of_each_class(self, tmp_path, count, share, held_out):
        root = write(tmp_path, *names('cat', count), *names('dog', 40))
        train, val, test = (find_images(root, split, share) for split in ('train', 'val', 'test'))
        assert len(val.files['cat']) == held_out
        assert len(val.files['dog']) == 40 * share
        for name in ('cat', 'dog'):
            assert sorted(train.files[name] + val.files[name]) == sorted(
                names('cat', count) if name == 'cat' else names('dog', 40))
        assert test.files == val.files
        assert train.share == val.share == share

    def test_by_digest(self, tmp_path):
        files = names('cat', 10)
        root = write(tmp_path, *files)
        by_digest = sorted(files, key=lambda file: hashlib.sha256(file.encode()).hexdigest())
        assert find_images(root, 'val', 0.3).files['cat'] == sorted(by_digest[:3])

    def test_order_of_the_system_does_not_count(self, tmp_path, monkeypatch):
        root = write(tmp_path, *names('cat', 30), *names('dog', 30))
        expected = [find_images(root, split) for split in ('train', 'val')]
        scandir = os.scandir

        def shuffled(path):
            with scandir(path) as entries:
                found = list(entries)
            random.Random(1).shuffle(found)
            return contextlib.nullcontext(found)

        monkeypatch.setattr(os, 'scandir', shuffled)
        assert [find_images(root, split) for split in ('train', 'val')] == expected
        # Not even what else there is.
        write(tmp_path, *names('emu', 5))
        assert find_images(root, 'val').files['cat'] == expected[1].files['cat']

    def test_all_to_test(self, tmp_path):
        root = write(tmp_path, 'cat/1.jpg', *names('dog', 5))
        assert len(find_images(root, 'test', 1)) == 6

    @pytest.mark.parametrize('split, share', [
        ('train', 0), ('train', 1), ('val', 1.), ('test', 1.5), ('val', -0.1), ('val', True),
        ('val', '0.1'), ('val', None)])
    def test_bad_share(self, tmp_path, split, share):
        root = write(tmp_path, *names('cat', 3))
        with pytest.raises(ValueError, match=f'^val_share must be .* but got {share!r}. Set a '
                           'share such as 0.1, or put the images .* into a folder val/'):
            find_images(root, split, share)


MISTAKES = {
    'missing': ([], 'gone', "there is no folder '.*gone'"),
    'file': (['a.zip'], 'a.zip', "'.*a.zip' is a file, not a folder"),
    'empty': ([], '', "the folder '.*' has no class folders"),
    'no images at all': (['a.txt', '.x/a.jpg'], '', "the folder '.*' has no class folders"),
    'images inside': (names('.', 3), '', "'.*' has 3 images directly inside, but no class"),
    'images in train': (names('train', 2) + names('val', 1), '',
                        "'.*train' has 2 images directly inside, but no class folders"),
    'empty class': (names('cat', 2) + ['dog/a.txt', 'emu/.b.jpg'], '',
                    "the class folders have no images .*: 'dog', 'emu'"),
    'empty class of a split': (names('train/cat', 2) + ['train/dog/a.txt', 'val/cat/1.jpg'], '',
                               "in '.*train', the class folder has no images .*: 'dog'"),
    'too high': (names('a/train/cat', 2) + names('a/val/cat', 2), '',
                 r'a level too high: .* Set data_root=.*/a\.$'),
    'too low': (names('train/cat', 2) + names('val/cat', 2), 'train',
                r'is one split of the images alone. Set data_root='),
    'no train': (names('val/cat', 2), '', "has the folders 'val', but none to train with"),
    'class that is not UTF-8': (names('a', 2) + names('caf\udce9', 2), '',
                                r"the name of the class folder 'caf\\udce9' .* not UTF-8. Rename"),
    'single image': (names('cat', 2) + names('dog', 1), '', "one image only of 'dog'"),
}


@pytest.mark.parametrize('name', MISTAKES)
def test_mistakes(tmp_path, name):
    files, folder, message = MISTAKES[name]
    write(tmp_path, *files)
    with pytest.raises(ValueError, match=f'^data_root: .*{message}'):
        find_images(str(tmp_path / folder), 'train')


def test_unknown_split(tmp_path):
    with pytest.raises(ValueError, match=r"split must be one of .*'train'.* but got 'dev'"):
        find_images(write(tmp_path, *names('cat', 2)), 'dev')
