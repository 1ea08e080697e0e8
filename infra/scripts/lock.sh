#!/usr/bin/env bash
# Write requirements.lock (what anor runs with) and tests/requirements.lock (that, and what tests and linters need).
# Without arguments pins are kept where they still fit; lock.sh --upgrade takes the newest of everything.
set -euo pipefail
cd "$(dirname "$0")/../.."

compile() {
  local output=$1 title=$2
  shift 2
  .venv/bin/pip-compile pyproject.toml --quiet --output-file "$output" --generate-hashes --strip-extras --allow-unsafe \
    --all-build-deps --no-header --no-emit-index-url --no-emit-find-links --no-emit-trusted-host "$@"
  {
    echo "# $title"
    echo "# Written by \`make lock\` (pip-compile from pyproject.toml); change pyproject.toml and run that instead of editing this."
    echo "# Names no package index: pip's own configuration says where packages come from."
    echo
    cat "$output"
  } >"$output.new"
  mv "$output.new" "$output"
}

compile requirements.lock "Everything that \`anor\` runs with, each file by its hash." "$@"
compile tests/requirements.lock "requirements.lock, and what tests and linters need." --extra test --constraint requirements.lock "$@"
