"""What the deployment tests share: Ansible, from the environment that runs the tests."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ANSIBLE = Path(__file__).resolve().parents[2] / "ansible"
TIME_LIMIT_S = 240

RunAnsible = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_ansible(tmp_path: Path) -> RunAnsible:
    """Run one of Ansible's programs in ``ansible/``, offline and away from the user's own files.

    Returns
    -------
    callable
        Takes the program's name and arguments; fails the test, with all output, where the
        program fails.
    """
    scripts = Path(sys.executable).parent
    environment = {
        "PATH": f"{scripts}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(tmp_path / "home"),
        "ANSIBLE_HOME": str(tmp_path / "ansible"),
        "ANSIBLE_LOCAL_TEMP": str(tmp_path / "ansible/tmp"),
        "ANSIBLE_REMOTE_TEMP": str(tmp_path / "ansible/remote"),
        "LC_ALL": "C.UTF-8",
        "NO_COLOR": "1",
    }

    def run(program: str, *arguments: str | os.PathLike[str]) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [scripts / program, *arguments],
            cwd=ANSIBLE,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, f"{program}:\n{done.stdout}\n{done.stderr}"
        return done

    return run
