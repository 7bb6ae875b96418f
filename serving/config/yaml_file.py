"""Reads a YAML file whose cost is bounded by its size, whatever it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from serving.errors import ConfigError

# In C: a dictionary has 18,000 characters, and libyaml refuses 1000 brackets by itself.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_MAX_DEPTH = 32
_MAX_SCALAR = 2000
"""Characters of a value. Python prints no integer of over 4300 digits, not even in an error."""


def read_yaml(path: Path, *, max_bytes: int) -> Any:
    """The one document in a YAML file, as plain values.

    Aliases count as what they stand for: the document may be twice as large as the file may.
    Raises FileNotFoundError, and ConfigError for everything else: not readable, too large, too
    deep, not valid YAML, or a value that Python cannot hold.
    """
    data = read_file(path, max_bytes=max_bytes)
    try:
        loader = _Loader(data.decode("utf-8-sig"))
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check(node, _MAX_DEPTH, [2 * max_bytes])
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except (yaml.YAMLError, ArithmeticError, LookupError, RecursionError, ValueError) as error:
        # PyYAML lets through what int() and datetime raise: 5000 digits, February 30.
        raise ConfigError(f"{path}: not valid YAML: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).replace('in "<unicode string>", ', "in ").split())


def read_file(path: Path, *, max_bytes: int) -> bytes:
    """The bytes of a file that an operator names.

    Raises FileNotFoundError, and ConfigError: not a file, not readable, or too large.
    """
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: not a file")
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be read: {reason}") from error
    if len(data) > max_bytes:
        raise ConfigError(f"{path}: larger than {max_bytes} bytes, as no such file is")
    return data


def _check(node: yaml.Node, depth: int, left: list[int]) -> None:
    """Raise ValueError if the document is too deep or, with its aliases expanded, too large, or has
    a key twice.

    left: characters that may still come. An alias to what holds it is infinitely deep.
    """
    if depth == 0:
        raise ValueError(f"nested more than {_MAX_DEPTH} levels deep")
    if isinstance(node, yaml.ScalarNode):
        left[0] -= len(node.value)
        if len(node.value) > _MAX_SCALAR:
            line = node.start_mark.line + 1
            raise ValueError(f"line {line}: a value of more than {_MAX_SCALAR} characters")
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise ValueError(f"line {key.start_mark.line + 1}: {key.value} is there twice")
            seen.add(str(key.value))
    left[0] -= 1
    if left[0] < 0:
        raise ValueError("its aliases expand to too much")
    for child in node.value if isinstance(node, yaml.CollectionNode) else ():
        for part in child if isinstance(child, tuple) else (child,):
            _check(part, depth - 1, left)
