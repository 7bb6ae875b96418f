"""A real Ray cluster of node processes on this machine, which can be killed.

`python -m benchmarks.ray_cluster` prints the address of an empty one, then obeys lines. `add
MODELS` adds a node of two cores, whose folder of models that is (`-`: the driver's). `kill N` kills
the raylet and the workers of the N-th node. Each is answered with `done`. It ends with its stdin.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Send = Callable[..., None]


@contextmanager
def ray_cluster() -> Iterator[tuple[str, Send]]:
    """The address of an empty cluster, and what sends it the words of a line."""
    command = [sys.executable, "-m", "benchmarks.ray_cluster"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def send(*words: object) -> None:
            stdin.write(" ".join(map(str, words)) + "\n")
            stdin.flush()
            assert stdout.readline() == "done\n"

        yield stdout.readline().strip(), send


def _kill(node: Any) -> None:
    """The raylet first, so that it cannot replace its workers."""
    raylet = node.all_processes["raylet"][0].process.pid
    children = Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split()
    for pid in (raylet, *map(int, children)):
        os.kill(pid, signal.SIGKILL)


def main() -> None:
    """One cluster."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes: list[Any] = []
    print(cluster.address, flush=True)
    for line in sys.stdin:
        what, argument = line.split()
        if what == "add":
            env = {} if argument == "-" else {"OCR_HPI_MODELS": argument}
            nodes.append(cluster.add_node(num_cpus=2, env_vars=env))
        else:
            _kill(nodes[int(argument)])
        print("done", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
