# Copyright (c) the autoprog_mm authors. All rights reserved.
"""The file of a suite's results: a line a run."""
import json
import os.path as osp
from typing import Dict, Tuple

from folder import RESULT
from mmengine.fileio import load
from suite import fingerprint, make_config

from autoprog_mm.utils import UserError, write_atomically

SCHEMA = 2  # of 1, runs do not say what they have computed


def read_results(path: str) -> dict:
    """Read a file of results.

    Args:
        path (str): The file that ``run.py`` has written.

    Raises:
        UserError: If it isn't one.
    """
    try:
        data = load(path, file_format='json')
    except (OSError, ValueError) as error:
        raise UserError(f'{path!r} cannot be read as a file of results: {error}.') from error
    if data.get('schema') != SCHEMA or 'runs' not in data:
        raise UserError(f'{path} is not a file of results of schema {SCHEMA}.')
    return data


def collect_results(suite: dict, name: str, runs: Dict[Tuple[str, int], str], out: str) -> None:
    """Write all results that there are into one file.

    Rows of other seeds and arms, which the file has already, stay.

    Args:
        suite (dict): The suite.
        name (str): Its name.
        runs (dict): Folders by arm and seed.
        out (str): The file.
    """
    rows = {}
    if osp.exists(out):
        rows = {(row['arm'], row['seed']): row for row in read_results(out)['runs']}
    for (arm, seed), folder in runs.items():
        path = osp.join(folder, RESULT)
        if osp.exists(path):
            result = load(path)
            result['record']['run']['dataset'].pop('data_root', None)  # is this machine's affair
            rows[arm, seed] = dict(arm=arm, seed=seed, **result)
    head = dict(schema=SCHEMA, suite=name, about=suite.get('about', ''), seeds=suite['seeds'],
                options=suite.get('options', {}), arms=suite['arms'],
                tables=suite.get('tables', []))
    order = {arm: i for i, arm in enumerate(suite['arms'])}
    lines = [json.dumps(rows[key]) for key in sorted(
        rows, key=lambda key: (order.get(key[0], len(order)), key[1]))]
    text = json.dumps(head, indent=1)[:-2] + ',\n "runs": [\n' + ',\n'.join(lines) + '\n ]\n}\n'
    write_atomically(out, text)


def check_old_results(suite: dict, folder: str, options: dict, out: str) -> None:
    """Refuse to mix results of a file with those of other configs.

    Args:
        suite (dict): The suite.
        folder (str): Folder of its file.
        options (dict): Settings of all runs, from the command line.
        out (str): The file of results, which need not be there.

    Raises:
        UserError: Names the first run of another config.
    """
    for row in read_results(out)['runs'] if osp.exists(out) else ():
        arm, seed = row['arm'], row['seed']
        if arm not in suite['arms'] or row['config'] != fingerprint(
                make_config(folder, suite, arm, seed, options)):
            raise UserError(
                f'--out: {out} has a result of {arm}, seed {seed}, with another config than the '
                'suite and --cfg-options give now. Choose another file, or delete that line.')
