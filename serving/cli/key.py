"""`ocr-hpi key`: a new key for callers of the server."""

from __future__ import annotations

from typing import Any

import click


class Name(click.ParamType):  # type: ignore[type-arg]  # generic only since click 8.4
    """Whose key it is."""

    name = "NAME"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        from serving.http.keys import NAME

        if not NAME.fullmatch(str(value)):
            self.fail(f"{value!r}: letters, digits and . _ @ -, 64 at most", param, ctx)
        return str(value)


@click.command()
@click.argument("name", type=Name())
def command(name: str) -> None:
    """Make a key for a caller of the server.

    The line for the keys file, which holds the key's hash alone, goes to stdout; the key itself is
    shown once, on stderr: ocr-hpi key alice >> keys.txt. The server reads the file when it starts
    with --api-keys-file keys.txt, and again at kill -HUP. NAME appears in the log.
    """
    from serving.http.keys import new_key

    key, line = new_key(name)
    click.echo(line)
    click.echo(f"The key of {name}, shown only now: {key}", err=True)
