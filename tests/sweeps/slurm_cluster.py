"""A real Slurm cluster of two nodes on this machine, from Debian's packages ``slurm-wlm`` and ``munge``.

::

    python tests/sweeps/slurm_cluster.py stc_lab -m hydra/launcher=submitit_slurm hydra.launcher.partition=debug ...

starts it in a folder of its own, runs the command in it, and stops it. Four daemons (munged, slurmctld, two slurmd)
on the loopback device with free ports, their own key, socket and configuration: a Slurm that the machine may have
is neither used nor touched.
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "sinfo")
NODES = ("n1", "n2")
WAIT_S = 60.0

CONFIGURATION = """\
ClusterName=stc_lab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
ReturnToService=2
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobs.txt
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdUser={user}
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdSpoolDir={folder}/spool.%n
# The nodes are what stands here, whatever the machine has.
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
{nodes}
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing_programs() -> list[str]:
    """Those of Slurm's and Munge's programs that this machine lacks."""
    return [name for name in PROGRAMS if _find(name) is None]


class Cluster:
    """Two idle nodes while the ``with`` block lasts; partition ``debug``, one core each.

    Attributes:
        folder: configuration, logs and state of the daemons.
        environment: what a command needs besides the usual to speak to this cluster.
    """

    def __init__(self) -> None:
        # A socket's path has at most 107 characters, and munged wants it reachable and not writable by others.
        self.folder = Path(tempfile.mkdtemp(prefix="stc_lab_slurm_"))
        self.folder.chmod(0o711)
        self.environment = {
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"]),
        }
        self._daemons: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> Cluster:
        """Raises ``RuntimeError`` with the daemons' last words when the nodes are not idle within a minute."""
        try:
            self._configure()
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def ask(self, *command: str) -> str:
        """Output of one of Slurm's commands in this cluster; empty when it failed."""
        environment = os.environ | self.environment
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60).stdout

    def finished_jobs(self) -> list[dict[str, str]]:
        """The controller's record of every job that ended: ``JobId``, ``JobState``, ``NodeList`` and more."""
        file = self.folder / "jobs.txt"
        lines = file.read_text().splitlines() if file.exists() else []
        return [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]

    def stop(self) -> None:
        """End the jobs that still run, then the daemons, youngest first, and remove the folder."""
        if NODES[-1] in self._daemons:
            self.ask("scancel", f"--user={getpass.getuser()}")
            _wait(lambda: not self.ask("squeue", "--noheader"), WAIT_S)
        for daemon in reversed(self._daemons.values()):
            daemon.terminate()
            try:
                daemon.wait(timeout=WAIT_S)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._daemons.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _configure(self) -> None:
        host = socket.gethostname()
        controller_port, *ports = _free_ports(1 + len(NODES))
        nodes = (
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1 RealMemory=4000 State=UNKNOWN"
            for name, port in zip(NODES, ports, strict=True)
        )
        text = CONFIGURATION.format(
            folder=self.folder, host=host, controller_port=controller_port, user=getpass.getuser(),
            nodes="\n".join(nodes),
        )  # fmt: skip
        (self.folder / "slurm.conf").write_text(text, encoding="ascii")
        (self.folder / "state").mkdir()
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))

    def _start(self) -> None:
        at = self.folder
        self._daemon("munged", "munged", "--foreground", f"--socket={at}/munge.socket", f"--key-file={at}/munge.key",
                     f"--pid-file={at}/munge.pid", f"--seed-file={at}/munge.seed")  # fmt: skip
        self._expect((at / "munge.socket").exists, "munged to listen")
        self._daemon("slurmctld", "slurmctld", "-D", "-i")
        for name in NODES:
            self._daemon(name, "slurmd", "-D", "-N", name)
        states = ["sinfo", "--noheader", "--Node", "--format=%T"]
        self._expect(lambda: self.ask(*states).split() == ["idle"] * len(NODES), "both nodes to be idle")

    def _daemon(self, name: str, program: str, *arguments: str) -> None:
        environment = os.environ | self.environment
        with (self.folder / f"{name}.log").open("w") as log:
            self._daemons[name] = subprocess.Popen(
                [_find(program) or program, *arguments], env=environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log,
            )  # fmt: skip

    def _expect(self, is_so: Callable[[], bool], what: str) -> None:
        if not _wait(lambda: is_so() or self._dead(), WAIT_S) or self._dead():
            words = "\n".join(f"{path.name}: {path.read_text()[-800:]}" for path in sorted(self.folder.glob("*.log")))
            raise RuntimeError(f"waited in vain for {what} (ended: {self._dead() or 'none'})\n{words}")

    def _dead(self) -> list[str]:
        return [name for name, daemon in self._daemons.items() if daemon.poll() is not None]


def _find(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path="/usr/sbin")


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _wait(is_so: Callable[[], object], seconds: float) -> bool:
    end_s = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.2)
    return True


def main(command: list[str]) -> int:
    """Run the command in a cluster of its own; its exit status."""
    if not command or missing_programs():
        reason = f"not installed: {', '.join(missing_programs())}" if missing_programs() else "no command"
        print(f"usage: slurm_cluster.py COMMAND... ({reason}; Debian: slurm-wlm, munge)", file=sys.stderr)
        return 2
    with Cluster() as cluster:
        print(cluster.ask("sinfo", "--Node", "--long"), flush=True)
        status = subprocess.run(command, env=os.environ | cluster.environment, check=False).returncode
        for job in cluster.finished_jobs():
            print(*(f"{key}={job[key]}" for key in ("JobId", "JobState", "NodeList", "StartTime", "EndTime")))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
