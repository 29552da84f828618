"""The peers of a benchmark: an environment of their own, and one process each that answers in JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

INSTALL_S = 600.0
ANSWER_S = 120.0
# The ROS wheels' bootstrap leaves these behind; a child in another environment fails with them.
_NOT_FOR_CHILDREN = ("LD_LIBRARY_PATH", "_ROS_WHEELS_BOOTSTRAP_COMPLETE", "PYTHONPATH", "VIRTUAL_ENV")


def child_environment() -> dict[str, str]:
    """This process's environment without what belongs to its own virtual environment."""
    return {name: value for name, value in os.environ.items() if name not in _NOT_FOR_CHILDREN}


class PeerEnvironment:
    """A virtual environment with the groups of a requirements file, installed when they are not.

    The file has `# group: NAME` lines, each followed by its pins; the group `constraints` pins what
    those depend on.
    """

    def __init__(self, folder: Path, requirements: Path) -> None:
        self.folder, self.requirements = folder, requirements
        self.python = folder / "bin" / "python"
        self._reasons: dict[str, str | None] = {}

    def install(self, group: str) -> str | None:
        """The reason why the group is not there; None if it is. Tried once."""
        if group not in self._reasons:
            self._reasons[group] = self._install(group)
        return self._reasons[group]

    def _install(self, group: str) -> str | None:
        text = self.requirements.read_text()
        pins = text.partition(f"# group: {group}\n")[2].partition("# group: ")[0].split()
        installed = self.folder / f"{group}.installed"
        if installed.exists() and installed.read_text() == text:
            return None
        if not self.python.exists():
            print(f"making {self.folder} for the peers (2.5 GB, once)", file=sys.stderr)
            if reason := self._run([sys.executable, "-m", "venv", str(self.folder)]):
                return reason
        print(f"installing {' '.join(pins)} into {self.folder}", file=sys.stderr)
        pip = [str(self.python), "-m", "pip", "install", "--quiet", "--prefer-binary"]
        if reason := self._run([*pip, "--constraint", str(self.requirements), *pins]):
            return reason
        installed.write_text(text)
        return None

    @staticmethod
    def _run(command: list[str]) -> str | None:
        try:
            subprocess.run(
                command,
                check=True,
                timeout=INSTALL_S,
                capture_output=True,
                text=True,
                env=child_environment(),
            )
        except subprocess.TimeoutExpired:
            return f"not installed after {INSTALL_S:.0f} s"
        except subprocess.CalledProcessError as error:
            errors = [line for line in error.stderr.splitlines() if line.startswith("ERROR")]
            return (errors or error.stderr.splitlines()[-1:] or ["pip failed"])[0][:200]
        return None


class PeerProcess:
    """One peer's process: a line of JSON in, a line of JSON out; killed when it does not answer."""

    def __init__(self, command: list[str], log: IO[str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=child_environment(),
            start_new_session=True,
        )
        self.failures: list[str] = []
        self._ended = False
        answer = self._answer(ANSWER_S)
        self.how = answer.get("how", "")
        if "error" in answer:
            self.failures.append(f"not started: {answer['error']}")
            self._ended = True

    def ask(self, seconds: float, **question: Any) -> dict[str, Any] | None:
        """Its figures; None if it does not offer that or failed, which is added to `failures`."""
        if self._ended:
            return None
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it ended, which its empty answer says
            self._process.stdin.write(json.dumps({"seconds": seconds, **question}) + "\n")
            self._process.stdin.flush()
        answer = self._answer(seconds + ANSWER_S)
        if "error" in answer:
            self.failures.append(f"{question}: {answer['error']}")
        return None if answer.keys() & {"error", "not_offered"} else answer

    def _answer(self, timeout_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        timer = threading.Timer(timeout_s, self._kill)
        timer.start()
        line = self._process.stdout.readline()
        timer.cancel()
        self._ended = not line
        answer: dict[str, Any] = json.loads(line) if line else {"error": "its process ended or hung"}
        return answer

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # its session: its own servers too

    def close(self) -> None:
        """Let it stop its servers and end."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._kill()
            self._process.wait()
        self._process.stdout.close()


@contextmanager
def running_peers(
    environment: PeerEnvironment, script: Path, groups: dict[str, tuple[str, ...]], *arguments: str
) -> Iterator[tuple[dict[str, PeerProcess], dict[str, str]]]:
    """Those of the named peers that can be run, and why the others can not.

    Args:
        environment: Where they are installed.
        script: What each process runs, with its name and the arguments.
        groups: By a peer's name the groups it needs.
        arguments: For the script.
    """
    peers: dict[str, PeerProcess] = {}
    missing: dict[str, str] = {}
    with ExitStack() as stack:
        for name, needed in groups.items():
            reasons = [reason for group in needed if (reason := environment.install(group))]
            if reasons:
                missing[name] = reasons[0]
                continue
            log_path = environment.folder / f"{name.replace(' ', '_')}.log"
            log = stack.enter_context(log_path.open("w"))
            peer = PeerProcess([str(environment.python), str(script), name, *arguments], log)
            stack.callback(peer.close)
            peers[name] = peer
        yield peers, missing
