#!/usr/bin/env bash
# Make .venv from a lock file: environment.sh requirements.lock
# Every file is checked against its hash; where packages come from is up to pip's own configuration.
set -euo pipefail
cd "$(dirname "$0")/../.."
lock=$1

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
    if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
      command -v "$candidate"
      return
    fi
  done
  echo "Python 3.11 or later is needed and was not found; set PYTHON to one" >&2
  return 1
}

if [ ! -x .venv/bin/python ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
  python=$(find_python)
  # Debian keeps ensurepip in a package of its own, which a fresh machine lacks.
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    infra/scripts/debian-install.sh "python$version-venv" || {
      echo "the environment cannot be made without it" >&2
      exit 1
    }
  fi
  echo "making .venv with $("$python" --version)"
  rm -rf .venv
  "$python" -m venv .venv
fi

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
echo "installing $lock"
.venv/bin/python -m pip install -qq --require-hashes -r "$lock"
# The project itself, as a link to this directory; what builds it is pinned in the lock.
.venv/bin/python -m pip install -qq --no-deps --no-build-isolation --config-settings editable_mode=compat -e .

# Viewers for the browser come from npm, where there is one; everything else works without them.
viewer() {
  .venv/bin/python -m "$1" || echo "everything else works; once npm is there: .venv/bin/python -m $1"
}
if [ "${VIEWERS:-yes}" != no ]; then
  echo "installing the viewers"
  viewer wsi.openlayers
  viewer wsi.ohif
fi
