#!/bin/sh
# Writes both lock files anew from pyproject.toml, with hashes and without a word about where packages come from.
# Run it with the oldest supported Python (3.11), so that backports are in the lock; needs the package index.
set -eu

cd "$(dirname "$0")/.."
python=$(PYTHON=${PYTHON:-python3.11} tools/preflight.sh)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$python" -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --disable-pip-version-check pip-tools

compile() { # compile OUTPUT SOURCE...
    output=$1
    shift
    "$scratch/venv/bin/pip-compile" --quiet --generate-hashes --allow-unsafe --strip-extras --no-annotate \
        --no-header --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options \
        --output-file "$scratch/lock" "$@"
    sed -e '/^#/d' -e '/^$/d' "$scratch/lock" >"$output"
    rm "$scratch/lock"
}

printf 'setuptools>=77\nwheel\n' >"$scratch/build.in"
compile requirements-build.lock "$scratch/build.in"
compile requirements.lock --extra dev pyproject.toml
