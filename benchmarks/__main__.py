"""`python -m benchmarks compare` and `python -m benchmarks serve`, run by scripts/benchmark.sh."""

from __future__ import annotations

import click

from benchmarks.cli_compare import command as compare
from benchmarks.cli_load import command as serve


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Speed and accuracy of this project beside its peers'."""


main.add_command(compare, "compare")
main.add_command(serve, "serve")

if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
