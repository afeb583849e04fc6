# Copyright (c) the autoprog_mm authors. All rights reserved.
"""A suite: its file, what its arms may set, and the config of each run."""
import hashlib
import json
import os.path as osp
from copy import deepcopy
from functools import cache

from budgets import find_baseline, find_rival, is_full
from mmengine.config import Config, ConfigDict

from autoprog_mm.launch import read_config
from autoprog_mm.utils import UserError

# What an arm may set: how the network grows, and for how long. Everything else is the suite's.
ARM_KEYS = {
    'base': None,
    'hook': {'num_stages', 'initial_scale', 'resolution_divisor', 'regularization', 'search',
             'speedup', 'stage_shares', 'budget'},
    'optim_wrapper': {'growth', 'optimizer_state', 'ema_decays'},
}
SUITE_KEYS = {'base', 'seeds', 'arms', 'tables', 'options', 'about'}
TABLE_KINDS = {'compare', 'rivals', 'equal', 'curve', 'effects', 'weights', 'choices', 'ledger'}
# What the options of all runs may not set, since it is an arm's or the seed's.
NO_OPTIONS = ('custom_hooks', 'randomness', 'work_dir', *(
    f'optim_wrapper.{key}' for key in sorted(ARM_KEYS['optim_wrapper'])))


def read_suite(path: str) -> dict:
    """Read a suite and check it.

    Args:
        path (str): The file.

    Returns:
        dict: The suite; each of its arms has a ``base``.

    Raises:
        UserError: Names what is wrong.
    """
    suite = read_config(path).to_dict()
    unknown = sorted(set(suite) - SUITE_KEYS)
    missing = sorted({'base', 'seeds', 'arms'} - set(suite))
    if unknown or missing:
        raise UserError(
            f'{path}: a suite has the keys {sorted(SUITE_KEYS)}, of which base, seeds and arms '
            f'must be there; unknown: {unknown}, missing: {missing}.')
    check_options('options', suite.get('options', {}))
    for name, arm in suite['arms'].items():
        _check_arm(path, name, arm)
        arm.setdefault('base', suite['base'])
    for table in suite.get('tables', []):
        _check_table(path, table, suite['arms'])
    return suite


def _check_arm(path: str, name: str, arm: dict) -> None:
    unknown = sorted(set(arm) - set(ARM_KEYS))
    for part in ('hook', 'optim_wrapper'):
        unknown += [f'{part}.{key}' for key in sorted(set(arm.get(part, {})) - ARM_KEYS[part])]
    if unknown:
        raise UserError(
            f'{path}: the arm {name!r} sets {unknown}. Arms are compared, so they may differ in '
            'growth only: ' +
            '; '.join(f'{part}: {", ".join(sorted(keys))}' for part, keys in ARM_KEYS.items()
                      if keys) + '. Put what all runs have into options.')


def _check_table(path: str, table: dict, arms: dict) -> None:
    where = f'{path}: the table {table.get("name")!r}'
    if not {'name', 'arms'} <= set(table) <= {'name', 'arms', 'kind'} or \
            table.get('kind', 'compare') not in TABLE_KINDS:
        raise UserError(f'{where} must have name and arms, and may have kind, one of '
                        f'{sorted(TABLE_KINDS)}; but got {table}.')
    unknown = sorted(set(table['arms']) - set(arms))
    if unknown:
        raise UserError(f'{where} has arms that the suite lacks: {unknown}.')
    bases = sorted({arms[arm]['base'] for arm in table['arms']})
    if len(bases) > 1:
        raise UserError(f'{where} compares runs of different configs: {bases}.')
    names, kind = table['arms'], table.get('kind')
    grown = [name for name in names if not is_full(arms[name])]
    alone = [name for name in grown if find_rival(arms, names, name) is None]
    if kind == 'rivals' and alone:
        raise UserError(f'{where} must have the full network (num_stages=1) with the speedup of '
                        f'each arm that grows, but there is none for {alone}.')
    if kind in ('equal', 'curve') and (not grown or find_baseline(arms, names) is None):
        raise UserError(f'{where} must have arms that grow, and the full network (num_stages=1) '
                        f'without speedup, but has {names}.')


def check_options(name: str, options: dict) -> None:
    """Raise a UserError if settings of all runs are those of arms or seeds."""
    for key in options:
        if any(key == taken or key.startswith(f'{taken}.') for taken in NO_OPTIONS):
            raise UserError(f'{name} must not set {key}: that is what arms and seeds are for.')


def make_config(folder: str, suite: dict, arm: str, seed: int, options: dict) -> Config:
    """The config of a run.

    Args:
        folder (str): Folder of the suite's file.
        suite (dict): Of :func:`read_suite`.
        arm (str): Name of the arm.
        seed (int): The seed.
        options (dict): Settings of all runs, from the command line.

    Returns:
        Config: The base config with the options, the arm's growth and the seed.

    Raises:
        UserError: If an option is unknown, or the base config grows by itself.
    """
    settings = suite['arms'][arm]
    cfg = deepcopy(_read_base(osp.normpath(osp.join(folder, settings['base']))))
    for name, given in (('options', suite.get('options', {})), ('--cfg-options', options)):
        unknown = sorted(key for key in given if key.split('.')[0] not in cfg)
        if unknown:
            raise UserError(f'{name}: {settings["base"]} has no {unknown}. Check the spelling.')
        cfg.merge_from_dict(given)
    hook = ConfigDict(type='AutoProgHook', **{'num_stages': 1, **settings.get('hook', {})})
    for i, old in enumerate(cfg.custom_hooks):
        if old['type'] == 'AutoProgHook':
            if set(old) - {'type', 'num_stages'}:
                raise UserError(f'{settings["base"]}: AutoProgHook must be the baseline\'s, with '
                                f'num_stages=1 and nothing else, but got {dict(old)}.')
            cfg.custom_hooks[i] = hook
    cfg.optim_wrapper.update(settings.get('optim_wrapper', {}))
    cfg.randomness = dict(seed=seed)
    return cfg


_read_base = cache(read_config)  # of many runs


def fingerprint(cfg: Config) -> str:
    """What tells whether two runs had the same config, wherever their data lie.

    Args:
        cfg (Config): Of :func:`make_config`.

    Returns:
        str: First 16 digits of the SHA-256 of the config without its ``data_root``.
    """

    def plain(value):
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if key != 'data_root'}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    text = json.dumps(plain(cfg.to_dict()), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
