"""`ocr-hpi key`: make an API key."""

from __future__ import annotations

import click

from serving.cli.options import Parsed


def _name(text: str) -> str:
    from serving.http.keys import NAME

    if not NAME.fullmatch(text):
        raise ValueError(f"{text!r}: use at most 64 letters, digits and . _ @ -")
    return text


@click.command()
@click.argument("name", type=Parsed("NAME", _name))
def command(name: str) -> None:
    """Make an API key for a client of the server.

    The line for the keys file goes to stdout and holds only the key's hash; the key itself is
    shown once, on stderr: ocr-hpi key alice >> keys.txt. The server reads the file at its start,
    with --api-keys-file keys.txt, and again at a SIGHUP. NAME appears in the log.
    """
    from serving.http.keys import new_key

    key, line = new_key(name)
    click.echo(line)
    click.echo(f"The key for {name}, which is not shown again: {key}", err=True)
