"""`ocr-hpi bundle`: all that a machine without a network needs, in one tar file."""

from __future__ import annotations

import platform
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from serving.cli.options import models_option, named_models, pipelines_argument
from serving.cli.prepare import prepare


@click.command()
@click.argument("out", metavar="OUT.tar", type=click.Path(dir_okay=False, path_type=Path))
@pipelines_argument
@click.option(
    "--extra",
    type=click.Choice(["cpu", "gpu"]),
    default="cpu",
    show_default=True,
    help="The wheels for that device.",
)
@click.option(
    "--no-wheels", is_flag=True, help="Only models and graphs, for where the package is installed."
)
@models_option
def command(
    out: Path, pipelines: tuple[Path, ...], extra: str, no_wheels: bool, models: Path
) -> None:
    """Pack pipelines for a machine without a network: wheels, models and graphs, in OUT.tar.

    What is missing is fetched and converted first. There, in a clone: bash scripts/serve.sh
    --from-bundle OUT.tar. The wheels are for this Python, system and architecture. The engine plan
    is not packed: the other machine measures its own when it first serves.
    """
    from serving.disk import disk_errors
    from serving.errors import CLONE, ConfigError

    if not no_wheels and CLONE is None:
        raise ConfigError(
            "bundle: this package was installed from a wheel, without the locks of its "
            "dependencies; run it in a clone, or pass --no-wheels"
        )
    prepare(pipelines, models, graphs_only=True)
    with disk_errors(out.parent), tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        folder = Path(scratch)
        if CLONE is not None and not no_wheels:
            _collect_wheels(CLONE, extra, folder / "wheels")
        version = ".".join(platform.python_version_tuple()[:2])
        (folder / "bundle.txt").write_text(
            f"{extra} {version} {platform.system()} {platform.machine()}\n"
        )
        packed = folder / "bundle.tar"
        with tarfile.open(packed, "w") as archive:  # what is in it is compressed already
            for source, name in _contents(folder, models, pipelines):
                archive.add(source, name, recursive=False)
        packed.replace(out)
    click.echo(f"{out}: {out.stat().st_size / 1e6:.0f} MB")


def _collect_wheels(clone: Path, extra: str, folder: Path) -> None:
    """The locked packages of the extra, and this one. Raises FetchError."""
    from serving.errors import FetchError

    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    lock = ["--require-hashes", "--requirement", f"requirements/{extra}.txt"]
    for action in (
        ["download", *lock, "--only-binary=:all:", "--dest", str(folder)],
        ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), "."],
    ):
        if subprocess.run([*pip, *action], cwd=clone, stdout=2).returncode:
            raise FetchError(f"pip {action[0]} failed for the reason above; run the command again")


def _contents(folder: Path, models: Path, pipelines: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Each file, and its name in the archive: wheels/..., models/..., bundle.txt."""
    from serving.models.files import file_hashes
    from serving.models.store import Store
    from serving.plan.graphs import Graphs

    yield folder / "bundle.txt", "bundle.txt"
    for wheel in sorted(folder.glob("wheels/*")):
        yield wheel, f"wheels/{wheel.name}"
    for name, own in named_models(pipelines):
        model = Store(models).folder(name, own)
        if own is None:
            for file in file_hashes(model):
                yield model / file, f"models/{name}/{file}"
        else:
            click.echo(f"{own}: your own model; only its graphs are packed, copy it yourself")
        for path in Graphs(models).files(model, name):
            yield path, f"models/{path.relative_to(models)}"
