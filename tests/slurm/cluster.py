"""A real Slurm of two nodes on this machine, with its own munge, state folder and ports.

Nothing of a Slurm that may be installed is touched: every client finds this one by SLURM_CONF. Only
the names of the nodes go into /etc/hosts for the time being, since torch's rendezvous needs them.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

NODES = ("bksdm-n1", "bksdm-n2")
PROGRAMS = (
    "setpriv",
    "munged",
    "slurmctld",
    "slurmd",
    "sbatch",
    "srun",
    "sinfo",
    "scontrol",
    "scancel",
)
HOSTS = Path("/etc/hosts")
HOSTS_LINE = f"127.0.0.1 {' '.join(NODES)}  # bksdm tests/slurm\n"
GRACE_SECONDS = 60  # between a preemption's SIGTERM and its SIGKILL


def missing() -> str | None:
    """Why no Slurm can be started here; None if one can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)}; apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "slurmd runs jobs as root only, and this is not root"
    return None


@dataclass
class Cluster:
    """Two nodes of one CPU each, `low` and `high` partitions over both; `high` preempts `low`."""

    folder: Path
    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What a client of this cluster needs, and nothing of a Slurm job we may be in."""
        own = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SLURM", "SBATCH"))
        }
        return own | {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def start(self) -> None:
        """Start the daemons and wait until both nodes are idle."""
        for name in ("state", "spool", "log"):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        self._write_configuration()
        if HOSTS_LINE not in HOSTS.read_text():
            with HOSTS.open("a") as file:
                file.write(HOSTS_LINE)
        munge = {name: self.folder / f"munge.{name}" for name in ("key", "socket", "pid", "seed")}
        self._daemon(
            "munged",
            "--foreground",
            "--force",
            f"--key-file={munge['key']}",
            f"--socket={munge['socket']}",
            f"--pid-file={munge['pid']}",
            f"--seed-file={munge['seed']}",
            f"--log-file={self.folder / 'log' / 'munged'}",
        )
        wait_until(munge["socket"].exists, seconds=10, what="munged makes its socket")
        self._daemon("slurmctld", "-D", "-c")
        for node in NODES:
            self._daemon("slurmd", "-D", "-N", node)
        wait_until(self._idle, seconds=40, what=f"both nodes are idle (logs: {self.folder}/log)")

    def stop(self) -> None:
        """End jobs, daemons and whatever they have left, and take the names out of /etc/hosts."""
        with suppress(Exception):
            self.run("scancel", "--state=RUNNING,PENDING,SUSPENDED", "--user=root")
            wait_until(lambda: not self.run("squeue", "-h"), seconds=10, what="jobs have ended")
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in reversed(self.daemons):
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._kill_leftovers()
        HOSTS.write_text(HOSTS.read_text().replace(HOSTS_LINE, ""))

    def run(self, *command: object, cwd: Path | None = None) -> str:
        """Run a client; returns what it printed."""
        done = subprocess.run(
            list(map(str, command)),
            env=self.environment,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def submit(self, *arguments: object, cwd: Path | None = None) -> str:
        """sbatch; returns the job's id."""
        return self.run("sbatch", "--parsable", *arguments, cwd=cwd).partition(";")[0]

    def job(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says."""
        text = self.run("scontrol", "--oneliner", "show", "job", job)
        return dict(item.split("=", 1) for item in text.split() if "=" in item)

    def wait_for(self, job: str, *states: str, seconds: float) -> None:
        """Wait until a job is in one of the states, and fail at once if it ends in another."""
        ends = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "PREEMPTED", "NODE_FAIL"} - {*states}
        what = f"job {job} is {' or '.join(states)}"

        def reached() -> bool:
            state = self.job(job)["JobState"]
            assert state not in ends, f"{what}: it is {state}"
            return state in states

        wait_until(reached, seconds=seconds, what=what)

    def start_soon(self, job: str) -> None:
        """Do not wait the two minutes that Slurm holds a requeued job back.

        Nor none at all: what starts in the second in which its last start was ended is taken for
        that ("Job credential revoked"), and fails.
        """
        self.wait_for(job, "PENDING", seconds=60)
        self.run("scontrol", "update", f"JobId={job}", "StartTime=now+2")

    def _idle(self) -> bool:
        for daemon in self.daemons:
            assert daemon.poll() is None, f"{daemon.args} has ended; see {self.folder}/log"
        with suppress(AssertionError):
            states = self.run("sinfo", "-h", "-p", "low", "-N", "-o", "%T").split()
            return states == ["idle"] * len(NODES)
        return False

    def _daemon(self, *command: str) -> None:
        name = command[-1] if command[0] == "slurmd" else command[0]
        with (self.folder / "log" / f"{name}.out").open("wb") as log:
            self.daemons.append(
                subprocess.Popen(
                    ("setpriv", "--pdeathsig", "TERM", *command),  # should pytest be killed
                    env=self.environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    def _kill_leftovers(self) -> None:
        """Jobs and step daemons outlive slurmd; ours are those with our SLURM_CONF."""
        mark = f"SLURM_CONF={self.folder / 'slurm.conf'}".encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with suppress(OSError):
                    if mark in (entry / "environ").read_bytes().split(b"\0"):
                        os.kill(int(entry.name), signal.SIGKILL)

    def _write_configuration(self) -> None:
        host = socket.gethostname()
        control, *ports = free_ports(1 + len(NODES))
        nodes = [
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1"
            for node, port in zip(NODES, ports, strict=True)
        ]
        text = f"""
            ClusterName=bksdm
            SlurmctldHost={host}(127.0.0.1)
            SlurmctldPort={control}
            SlurmUser=root
            SlurmdUser=root
            AuthType=auth/munge
            AuthInfo=socket={self.folder}/munge.socket
            CredType=cred/munge
            ProctrackType=proctrack/linuxproc
            TaskPlugin=task/none
            SelectType=select/cons_tres
            SelectTypeParameters=CR_CPU
            MpiDefault=none
            ReturnToService=2
            JobRequeue=1
            PreemptType=preempt/partition_prio
            PreemptMode=REQUEUE
            SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
            StateSaveLocation={self.folder}/state
            SlurmdSpoolDir={self.folder}/spool/%n
            SlurmctldLogFile={self.folder}/log/slurmctld
            SlurmdLogFile={self.folder}/log/slurmd.%n
            SlurmctldPidFile={self.folder}/slurmctld.pid
            SlurmdPidFile={self.folder}/slurmd.%n.pid
            {nodes[0]}
            {nodes[1]}
            PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime={GRACE_SECONDS}
            PartitionName=high Nodes=ALL PriorityTier=2 PreemptMode=OFF
        """
        lines = [line.strip() for line in text.strip().splitlines()]
        (self.folder / "slurm.conf").write_text("\n".join(lines) + "\n")


def wait_until(reached: Callable[[], bool], *, seconds: float, what: str) -> None:
    """Look every tenth of a second; fail with `what` when it takes too long."""
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, all different."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
