"""A Slurm of one node on this machine: a controller, a node with one NPU, and their settings.

The programs are those of Debian's package slurm-wlm, or of any Slurm on the PATH. They run as this
user and listen on this machine only, so they need no authentication (munge).
"""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = (
    "slurmctld",
    "slurmd",
    "sbatch",
    "srun",
    "squeue",
    "scancel",
    "scontrol",
    "sinfo",
    "sacct",
)
LONGEST = 60  # seconds until the node must be idle

SETTINGS = """
ClusterName=parity
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,defer=0,sched_interval=1,sched_min_interval=100000
ReturnToService=2
MinJobAge=3600
GresTypes=npu
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=16000 Gres=npu:1 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why there is no Slurm on this machine; None if there is one."""
    absent = [name for name in PROGRAMS if not shutil.which(name)]
    return f"no {', '.join(absent)}: Debian's slurm-wlm has them" if absent else None


def free_ports(number):
    """Numbers of ports on which nobody listens."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    found = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return found


class Slurm:
    """The cluster, from `with` to its end. Commands need `env`."""

    def __init__(self, folder: Path):
        self.folder = folder
        path = os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])
        self.env = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": path}
        self.processes: list[subprocess.Popen] = []

    def __enter__(self):
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True)
        # Debian's programs look for these files beside slurm.conf.
        (self.folder / "gres.conf").write_text("Name=npu Count=1\n")
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
        # Inside a job, the plugin removes all variables of Slurm before it calls srun.
        srun = self.folder / "bin" / "srun"
        srun.parent.mkdir()
        srun.write_text(
            f'#!/bin/sh\nSLURM_CONF={self.env["SLURM_CONF"]} exec {shutil.which("srun")} "$@"\n'
        )
        srun.chmod(0o755)
        (self.folder / "slurm.conf").write_text(
            SETTINGS.format(
                host=socket.gethostname().partition(".")[0],
                user=os.environ.get("USER") or subprocess.getoutput("id -un"),
                ports=free_ports(2),
                folder=self.folder,
            )
        )
        for program in ("slurmctld", "slurmd"):
            with (self.folder / f"{program}.out").open("w") as out:
                self.processes.append(
                    subprocess.Popen(
                        [program, "-D"], env=os.environ | self.env, stdout=out, stderr=out
                    )
                )
        end = time.monotonic() + LONGEST
        while (state := self.say("sinfo", "--noheader", "--format=%T")) != "idle":
            if time.monotonic() > end:
                self.__exit__()
                logs = [p.read_text() for p in sorted(self.folder.glob("slurm*.[lo][ou]*"))]
                raise RuntimeError(f"the node is {state!r}, not idle:\n" + "\n".join(logs))
            time.sleep(0.5)
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.terminate()
            process.wait()

    def say(self, *command):
        """What a program of Slurm prints."""
        done = subprocess.run(
            command, env=os.environ | self.env, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    def jobs(self):
        """What the controller knows about each job since its start, as `scontrol` names it."""
        lines = self.say("scontrol", "--oneliner", "show", "jobs").splitlines()
        return [dict(p.split("=", 1) for p in line.split() if "=" in p) for line in lines]
