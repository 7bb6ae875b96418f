"""A Ray cluster of node processes on this machine: prints its address, then obeys lines.

`add MODELS` adds a node of two cores, whose folder of models that is (`-`: the driver's); `kill N`
kills the raylet and the workers of the N-th node (kill -9). Each is answered with a line. The
cluster ends with its stdin.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from ray.cluster_utils import Cluster  # noqa: E402


def kill(node: Any) -> None:
    """The raylet first, so that it cannot replace its workers."""
    raylet = node.all_processes["raylet"][0].process.pid
    children = Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split()
    for pid in (raylet, *map(int, children)):
        os.kill(pid, signal.SIGKILL)


def main() -> None:
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    nodes: list[Any] = []
    print(cluster.address, flush=True)
    for line in sys.stdin:
        what, argument = line.split()
        if what == "add":
            env = {} if argument == "-" else {"OCR_HPI_MODELS": argument}
            nodes.append(cluster.add_node(num_cpus=2, env_vars=env))
        else:
            kill(nodes[int(argument)])
        print("done", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
