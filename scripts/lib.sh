# shellcheck shell=bash
# What the scripts share. Sourced, never run. All messages go to stderr.
#
#   ROOT                       the repository
#   ensure_venv DIR EXTRA      a virtual environment with this package, editable, and one extra
#   ensure_serving [EXTRA]     .venv; by default with the extra that it has, at first cpu
#   serving_extra              the extra of .venv: cpu or gpu
#   ensure_paddlex             .venv-paddlex: PaddleX and PaddleOCR on our engines
#   new_environment DIR EXTRA  an empty folder for one, in place of an old one that may be removed
#   usage_error TEXT           exit code 2
#   check_yamls YAML...        a usage error where one is not there; before anything is installed
#   show_help SCRIPT COMMAND   the script's usage and, where it is installed, the command's
#   build_python               a Python that has the packages of the conversion; fails without

set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"

STAMP=.ocr-hpi-stamp   # in a finished environment: what it was made from
MAKING=.ocr-hpi-making # in an unfinished one: its extra

say() { echo "$*" >&2; }

usage_error() {
  say "Error: $*"
  exit 2
}

check_yamls() { # YAML... relative to the repository
  local yaml
  for yaml in "$@"; do
    (cd "$ROOT" && [ -f "$yaml" ]) || usage_error "$yaml: no such file; the shipped pipelines are in configs/"
  done
}

# The comment at the top of a script.
show_header() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$1"; } # SCRIPT

# Installs nothing: the options are those of a command that may not be installed yet.
show_help() { # SCRIPT COMMAND...
  show_header "$1"
  shift
  if [ -x "$1" ]; then
    echo
    cd "$ROOT"
    exec "$@" --help
  fi
  echo "The first run installs ${1#"$ROOT"/}; after that, --help lists the options."
  exit 0
}

is_help() { case " $* " in *" --help "* | *" -h "*) ;; *) return 1 ;; esac }

# The first Python whose version is in [LOW, HIGH).
find_python() { # LOW HIGH PYTHON...
  local low=$1 high=$2 python
  shift 2
  for python in "$@"; do
    if [ -n "$python" ] && "$python" -c "import sys
low, high = (tuple(map(int, v.split('.'))) for v in ('$low', '$high'))
sys.exit(not low <= sys.version_info[:2] < high)" 2>/dev/null; then
      echo "$python"
      return
    fi
  done
  return 1
}

base_python() {
  find_python 3.11 3.14 "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python && return
  say "no Python 3.11 to 3.13 was found. Install one, or name it: PYTHON=/path/to/python3.12"
  return 1
}

# paddle2onnx has wheels for Python 3.11 and 3.12, not yet for 3.13.
build_python() {
  find_python 3.11 3.13 "${PYTHON:-}" python3 python3.12 python3.11 python
}

# One script at a time prepares environments; the kernel releases the lock when that script dies.
# The lock belongs to the open file, which bash shares with its child, so Python can take it for bash.
lock_environments() { # PYTHON
  exec 9<"$ROOT/scripts/lib.sh"
  "$1" -c "import fcntl, sys
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print('waiting for another script that prepares an environment', file=sys.stderr)
    fcntl.flock(9, fcntl.LOCK_EX)"
}

unlock_environments() { exec 9<&-; }

# The locked packages of an extra: exact versions, with hashes.
requirements() { # EXTRA
  case $1 in
    cpu,dev) echo requirements/dev.txt ;;
    *) echo "requirements/$1.txt" ;;
  esac
}

# What an environment must have been made from: the locked packages, the Python and the folder.
expected_stamp() { # PYTHON EXTRA
  (cd "$ROOT" && "$1" -c "import hashlib, platform
from pathlib import Path
made = b''.join(Path(name).read_bytes() for name in ('setup.cfg', 'pyproject.toml', '$(requirements "$2")'))
print('$2', platform.python_version(), '$ROOT', hashlib.sha256(made).hexdigest())")
}

is_made() { # DIR EXTRA
  local stamp="$1/$STAMP"
  [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(expected_stamp "$1/bin/python" "$2" 2>/dev/null)" ]
}

ensure_venv() { # DIR EXTRA [PYTHON]
  local dir=$1 extra=$2 base=${3:-}
  is_made "$dir" "$extra" && return
  base=${base:-$(base_python)}
  lock_environments "$base"
  # Another script may just have made it.
  is_made "$dir" "$extra" || make_venv "$dir" "$extra" "$base"
  unlock_environments
}

# Whether this user may change an environment or make one there. What another made stays as it is.
check_owner() { # DIR
  local near=$1
  [ -e "$near" ] || near=$(dirname "$near")
  if [ ! -O "$near" ] && { [ "$near" = "$1" ] || [ ! -w "$near" ]; }; then
    say "$near belongs to $(stat -Lc %U "$near"), and this is $(id -un): nothing was changed. Run the same" \
      "command as that user, or move ${near} away"
    return 1
  fi
}

new_environment() { # DIR EXTRA
  check_owner "$1" || return
  if [ ! -e "$1/$STAMP" ] && [ ! -e "$1/$MAKING" ] && [ -n "$(ls -A "$1" 2>/dev/null)" ]; then
    say "$1 is in the way: it has no working pip, and these scripts did not make it. Nothing was" \
      "changed; move it away, then run the same command again"
    return 1
  fi
  rm -rf "$1"
  mkdir "$1"
  echo "$2" >"$1/$MAKING"
}

make_venv() { # DIR EXTRA PYTHON
  local dir=$1 extra=$2 base=$3 python="$1/bin/python" quiet=(--quiet --progress-bar=off) locked pip
  check_owner "$dir" || return
  # Unfinished, of a Python that is gone, or moved from another folder: start over.
  if [ -e "$dir/$MAKING" ] || ! "$python" -m pip --version >/dev/null 2>&1 ||
    { [ -f "$dir/$STAMP" ] && ! grep -qF " $ROOT " "$dir/$STAMP"; }; then
    say "making $dir with $("$base" --version)"
    new_environment "$dir" "$extra" || return
    "$base" -m venv "$dir" >&2 || {
      say "$base cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv"
      return 1
    }
  fi
  echo "$extra" >"$dir/$MAKING"
  rm -f "$dir/$STAMP"
  swap_runtime "$python" "$extra"
  say "installing paddleocr-hpi-serving[$extra] into $dir (minutes the first time)"
  [ -t 2 ] && quiet=()
  locked=$(requirements "$extra")
  pip=("$python" -m pip install --disable-pip-version-check --no-input --no-compile)
  # First the locked pip: that of an older Python takes nearly twice as long over the rest.
  (cd "$ROOT" && "${pip[@]}" --quiet --require-hashes \
    --requirement <(sed -n '/^pip==/,/[^\\]$/p' "$locked") >&2 &&
    "${pip[@]}" ${quiet[@]+"${quiet[@]}"} --require-hashes --requirement "$locked" >&2 &&
    "${pip[@]}" -qq --no-deps --no-build-isolation --editable . >&2) || {
    say "pip could not install the extra '$extra' for the reason above. Run the same command again"
    return 1
  }
  # Now, by all cores, rather than at every start of a user who may not write there; Python compiles the
  # few modules that the other environments use.
  case $extra in cpu | gpu) "$python" -m compileall -q -j 0 "$dir/lib" >/dev/null || true ;; esac
  expected_stamp "$python" "$extra" >"$dir/$STAMP"
  rm "$dir/$MAKING"
}

# onnxruntime and onnxruntime-gpu are one Python package under two names: only one may be installed.
swap_runtime() { # PYTHON EXTRA
  local other
  case $2 in
    cpu) other=onnxruntime-gpu ;;
    gpu) other=onnxruntime ;;
    *) return 0 ;;
  esac
  if "$1" -m pip show --quiet "$other" >/dev/null 2>&1; then
    say "removing $other"
    "$1" -m pip uninstall --quiet --yes onnxruntime onnxruntime-gpu >&2
  fi
}

serving_extra() {
  local extra
  extra=$(cut -d' ' -f1 "$ROOT/.venv/$MAKING" "$ROOT/.venv/$STAMP" 2>/dev/null | head -n 1 || true)
  case $extra in gpu) echo gpu ;; *) echo cpu ;; esac
}

ensure_serving() { ensure_venv "$ROOT/.venv" "${1:-$(serving_extra)}"; }

# Not in .venv, because PaddleX pins an OpenCV that conflicts with ours.
ensure_paddlex() {
  ensure_venv "$ROOT/.venv-paddlex" paddlex
  "$ROOT/.venv-paddlex/bin/python" -c "import cv2" >&2 || {
    say "OpenCV does not load in .venv-paddlex. PaddleX's needs the system's libGL; on Debian and" \
      "Ubuntu: apt install libgl1 libglib2.0-0. Then run the same command again"
    return 1
  }
}
