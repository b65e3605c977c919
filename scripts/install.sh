#!/usr/bin/env bash
# Create or update .venv: `install.sh` for running, `install.sh dev` for working on the code.
# Does nothing when pyproject.toml and requirements.lock are what they were; an interrupted run goes on.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/common.sh

extra="${1:-}"
venv=".venv"
target="."
[ -n "$extra" ] && target=".[$extra]"

python=$(find_python) || fail "No Python $MINIMUM or newer was found (tried: ${PYTHON:-python3, $(python3 --version 2>&1 || true), and python3.11 to python3.14}).
Install one (Debian 12 and Ubuntu 24.04 have it: apt-get install python3 python3-venv), or name it: make PYTHON=/path/to/python3.11 ..."

fingerprint=$(cat pyproject.toml requirements.lock | "$python" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')
stamp="$venv/.installed${extra:+-$extra}"
# The editable install points at this folder, so a moved checkout needs a new one.
wanted="$fingerprint $PWD"
if [ -x "$venv/bin/python" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    exit 0
fi

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    package="python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
    apt_install "$package" || true
    "$python" -c 'import ensurepip, venv' 2>/dev/null || fail "Python's venv module is missing.
Install it and run make again:
    sudo apt-get install -y $package"
fi

# A .venv without a working pip is the remains of an interrupted run, or of a checkout that moved.
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    say "Creating $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv"
fi

say "Installing pinned dependencies into $venv (the first time, several minutes)"
start=$SECONDS
(while sleep 20; do say "  … still installing, $((SECONDS - start)) s"; done) &
heartbeat=$!
trap 'kill $heartbeat 2>/dev/null || true' EXIT
"$venv/bin/python" -m pip install -qq --no-input --disable-pip-version-check --root-user-action=ignore \
    --constraint requirements.lock --editable "$target" </dev/null || fail "pip could not install the dependencies (see above).
Check the network and the disk (3 GB are needed, and some 5 more for a CUDA build of torch), then run make again: it goes on where it stopped."
kill $heartbeat 2>/dev/null || true
printf '%s' "$wanted" >"$stamp"
# What serves the development also serves the demo.
[ -n "$extra" ] && printf '%s' "$wanted" >"$venv/.installed"
say "Installed in $((SECONDS - start)) s"
