"""`ocr-hpi doctor`: what this machine can run, and how to mend what it cannot."""

from __future__ import annotations

import click

from serving.errors import EngineError

_MARKS = {"ok": "ok     ", "absent": "absent ", "error": "ERROR  "}


@click.command()
def command() -> None:
    """Look at Python, processor, backends, OpenCV, GPU and drivers; say how to mend what is wrong.

    Exit code 1 when something is broken; what is merely absent is no fault.
    """
    from serving.doctor import examine

    broken = []
    for finding in examine():
        click.echo(f"{_MARKS[finding.state]} {finding.topic}: {finding.text}")
        if finding.mend:
            click.echo(f"        mend: {finding.mend}")
        if finding.state == "error":
            broken.append(finding.topic)
    if broken:
        raise EngineError(f"broken: {', '.join(broken)}; the lines above say how to mend them")
    click.echo("all is well; what will be used is measured by: bash scripts/build_engines.sh")
