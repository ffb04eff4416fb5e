"""A real Slurm of the test's own on this machine: two nodes without a GPU, one with a mock GPU."""

import importlib.util
import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "sinfo", "scancel")
NODES = ("n1", "n2", "g1")
# Nodes have more processors and memory than the machine: nothing is bound to them.
SETTINGS = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={ports[0]}
SlurmctldPidFile={folder}/slurmctld.pid
StateSaveLocation={folder}/state
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/spool-%n
SlurmdParameters=config_overrides
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=2,bf_interval=2
GresTypes=gpu
MinJobAge=3600
DefMemPerCPU=500
NodeName=DEFAULT CPUs=4 RealMemory=32000
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]}
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]}
NodeName=g1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[3]} Gres=gpu:1
PartitionName=cpu Nodes=n[1-2] Default=YES MaxTime=1-0
PartitionName=gpu Nodes=g1 MaxTime=1-0
"""


def skip_without_slurm():
    """Skip the test, with what is missing, where no Slurm can be started or used."""
    missing = [name for name in PROGRAMS if _program(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (Debian: munge slurmctld slurmd slurm-client)")
    if os.geteuid() != 0:
        pytest.skip("needs root, as slurmd does")
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        pytest.skip("needs snakemake-executor-plugin-slurm (requirements-slurm.txt)")


@contextmanager
def private_slurm(folder: Path):
    """Run a Slurm in `folder` and give the environment in which its commands reach it."""
    _configure(folder)
    environment = os.environ | {
        "SLURM_CONF": str(folder / "slurm.conf"),
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}:/usr/sbin:/sbin",
    }
    munged = (
        "munged", "--foreground", "--force", f"--socket={folder}/munge.socket",
        f"--key-file={folder}/munge.key", f"--pid-file={folder}/munged.pid",
        f"--log-file={folder}/munged.log", f"--seed-file={folder}/munge.seed",
    )  # fmt: skip
    nodes = [("slurmd", "-D", "-N", node) for node in NODES]
    daemons = []
    try:
        for command in (munged, ("slurmctld", "-D", "-i"), *nodes):
            daemons.append(_start(folder / f"{len(daemons)}.out", command, environment))
        _wait_for_nodes(folder, environment, daemons)
        yield environment
    finally:
        _stop(daemons, environment)


def finished_jobs(environment) -> list[dict]:
    """Return node, state, time limit and comment, which names the rule, of every job."""
    lines = _ask(environment, "squeue", "--noheader", "--states=all", "--format=%N|%T|%l|%k")
    keys = ("node", "state", "limit", "rule")
    return [dict(zip(keys, line.split("|"), strict=True)) for line in lines]


def _program(name):
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def _free_ports(number):
    """Return ports that nothing listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _configure(folder):
    """Write the settings, the key, and an `srun` that finds them.

    The executor hides SLURM_CONF from the `srun` inside a job, which would look in /etc.
    """
    (folder / "state").mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    settings = SETTINGS.format(folder=folder, host=socket.gethostname(), ports=_free_ports(4))
    (folder / "slurm.conf").write_text(settings, encoding="utf-8")
    (folder / "gres.conf").write_text("NodeName=g1 Name=gpu File=/dev/null\n", encoding="utf-8")
    srun = folder / "bin" / "srun"
    srun.write_text(
        f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {_program("srun")} "$@"\n',
        encoding="utf-8",
    )
    srun.chmod(0o755)


def _start(output, command, environment):
    """Start a daemon that stays a child of the test."""
    name, *arguments = command
    with output.open("w") as file:
        return subprocess.Popen(
            [_program(name), *arguments], env=environment, stdout=file, stderr=file
        )


def _ask(environment, *command) -> list[str]:
    """Return the lines that a command prints; none while nobody answers."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.stdout.split("\n")[:-1]


def _wait_for_nodes(folder, environment, daemons):
    """Wait until all nodes are idle; raise an error with the last lines if a daemon ended."""
    while all(daemon.poll() is None for daemon in daemons):
        nodes = _ask(environment, "sinfo", "--noheader", "--Node", "--states=idle", "--format=%N")
        if len(nodes) == len(NODES):
            return
        time.sleep(0.5)
    outputs = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.out"))]
    last = [line for output in outputs for line in output.splitlines()[-3:]]
    raise RuntimeError("Slurm did not start:\n" + "\n".join(last))


def _stop(daemons, environment):
    """End the jobs that still run, then the daemons, the last one first."""
    _ask(environment, "scancel", "--user=root")
    for _ in range(60):
        if not _ask(environment, "squeue", "--noheader"):
            break
        time.sleep(0.5)
    for daemon in reversed(daemons):
        daemon.terminate()
        try:
            daemon.wait(timeout=30)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
