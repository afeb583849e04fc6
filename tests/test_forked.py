# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Scripts in forks are as in fresh interpreters."""
import signal
import subprocess
import sys
import time

import pytest
from mmengine.logging import MMLogger

from tests.forked import Forked, run_script

SCRIPT = '''
import logging, os, sys
from mmengine.logging import MMLogger
print(sys.argv[1:], os.getcwd(), os.environ['MINE'], __name__)
print('to stderr', file=sys.stderr)
print(len(MMLogger._instance_dict), len(logging.root.handlers))
if sys.argv[1] == 'exit':
    sys.exit(3)
if sys.argv[1] == 'words':
    sys.exit('in words')
if sys.argv[1] == 'raise':
    raise ValueError('an error')
if sys.argv[1] == 'sleep':
    import time
    open('ready', 'w').close()
    time.sleep(60)
'''


@pytest.mark.parametrize('how, status', [('exit', 3), ('words', 1), ('raise', 1), ('end', 0)])
def test_as_a_fresh_interpreter(how, status, tmp_path):
    script = tmp_path / 'script.py'
    script.write_text(SCRIPT)
    MMLogger.get_instance('of the test')
    done = run_script(script, how, cwd=tmp_path, env={'MINE': 'set'})
    fresh = subprocess.run(
        [sys.executable, '-W', 'ignore', script, how], cwd=tmp_path, env={'MINE': 'set'},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == fresh.returncode == status
    for line in (f"['{how}'] {tmp_path} set __main__", 'to stderr', '0 0'):
        assert line in done.stdout.splitlines() and line in fresh.stdout.splitlines()
    for line in ('in words', 'ValueError: an error'):
        assert (line in done.stdout) == (line in fresh.stdout)


def test_signals(tmp_path):
    script = tmp_path / 'script.py'
    script.write_text(SCRIPT)
    process = Forked([script, 'sleep'], tmp_path, {'MINE': 'set'})
    while not (tmp_path / 'ready').exists():
        assert process.poll() is None, process.output
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == -signal.SIGTERM
