# Copyright (c) the autoprog_mm authors. All rights reserved.
import pytest

from autoprog_mm.utils.names import did_you_mean

KNOWN = ['lr', 'max_epochs', 'num_stages', 'drop_path_rate', 'lr_mult']


@pytest.mark.parametrize('name, meant', [
    ('num_stage', 'num_stages'), ('max_epoch', 'max_epochs'), ('drop_path', 'drop_path_rate'),
    ('mult', 'lr_mult'), ('epochs', 'max_epochs'), ('zzz', None), ('', None)])
def test_near_names(name, meant):
    assert did_you_mean(name, KNOWN) == (f' Did you mean {meant!r}?' if meant else '')


def test_known_in_any_form():
    assert did_you_mean('lrr', {'lr': 1}) == " Did you mean 'lr'?"
    assert did_you_mean('lr', iter(())) == ''
