#!/usr/bin/env bash
# On a fresh machine: all that the tests need, then the tests. test.sh [pytest arguments]
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

ensure_venv "$ROOT/.venv-test" cpu,dev
ensure_paddlex # PaddleX pins an OpenCV that breaks the others: an environment of its own
cd "$ROOT"
bash scripts/fetch_models.sh >&2
bash scripts/build_engines.sh >&2
exec .venv-test/bin/python -m pytest "$@"
