"""The launcher ends without interpreter shutdown, which aborts while a thread of torch's rendezvous is in C++ code."""

import subprocess
import sys

PROGRAM = """
import atexit, runpy, sys
atexit.register(lambda: print("interpreter shutdown"))
sys.argv = ["launch", sys.argv[1]]
runpy.run_module("clip_trainer.launch", run_name="__main__")
"""


def test_the_launcher_leaves_at_once_with_its_output_and_exit_code(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "missing.json")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 66
    assert "cannot read the run's configuration" in done.stdout
    assert "interpreter shutdown" not in done.stdout
