"""`models/hashes.json`: the hashes of what came from hosts without a hash in the manifest.

Trust on first use: recorded at the first fetch, held from then on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from serving.errors import FetchError
from serving.store.disk import write_whole
from serving.store.failures import WrongHash


def hold(
    path: Path, package: str, hashes: dict[str, str], *, origin: str, accept_new: bool
) -> None:
    """Record the hashes of a package's files, or compare them with those of its first fetch.

    Raises WrongHash when they differ and `accept_new` is False.
    """
    known = _read(path)
    first = known.get(package)
    if first is not None and not accept_new:
        changed = sorted(
            name for name, value in hashes.items() if first["sha256"].get(name, value) != value
        )
        if changed:
            name = changed[0]
            raise WrongHash(
                f"{package}: {name} from {origin} has sha256 {hashes[name]}, but at the first "
                f"fetch, from {first['from']}, it had {first['sha256'][name]} ({path}). If the "
                f"publisher did change it, accept it with --accept-new-hash"
            )
        if set(hashes) <= set(first["sha256"]):
            return
    kept = {} if first is None or accept_new else first["sha256"]
    known[package] = {"from": origin, "sha256": {**kept, **hashes}}
    write_whole(path, json.dumps(known, indent=2, sort_keys=True) + "\n")


def _read(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise FetchError(f"{path}: not valid JSON ({error}); mend it or remove it") from error
    if not isinstance(known, dict):
        raise FetchError(f"{path}: not a list of hashes; mend it or remove it")
    return known
