#!/usr/bin/env bash
# Installs, fetches and builds what the tests need, then runs them: test.sh [pytest arguments]
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

is_help "$@" && show_help "${BASH_SOURCE[0]}" "$ROOT/.venv-test/bin/pytest"
ensure_venv "$ROOT/.venv-test" cpu,dev
ensure_paddlex # an environment of its own, because PaddleX pins another OpenCV
[ -z "${OCR_HPI_REQUIRE_MCP:-}" ] || ensure_venv "$ROOT/.venv-mcp" mcp
cd "$ROOT"
bash scripts/fetch_models.sh >&2
bash scripts/build_engines.sh >&2
pytest=(.venv-test/bin/python -m pytest)
[ $# -eq 0 ] || exec "${pytest[@]}" "$@"
# All tests: three files at a time, as most wait for a process; then, alone, those that load a server,
# measure what an input costs it, or look at what a browser shows.
alone=(tests/hostile tests/http/page tests/http/gunicorn/test_many_connections.py tests/http/test_openapi.py)
code=0
"${pytest[@]}" --numprocesses=3 --dist=loadfile "${alone[@]/#/--ignore=}" || code=$?
"${pytest[@]}" "${alone[@]}" || code=$?
exit "$code"
