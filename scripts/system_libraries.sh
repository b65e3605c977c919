#!/usr/bin/env bash
# Check that the system libraries Open3D loads at import are there; install them where that needs no questions.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/common.sh

[ "$(uname -s)" = Linux ] || exit 0

python=$(find_python) || exit 0 # install.sh says what to do about Python

missing() {
    "$python" - <<'PY'
import ctypes

PACKAGES = {"libusb-1.0.so.0": "libusb-1.0-0", "libGL.so.1": "libgl1", "libEGL.so.1": "libegl1"}
absent = []
for library, package in PACKAGES.items():
    try:
        ctypes.CDLL(library)
    except OSError:
        absent.append(package)
print(" ".join(absent))
PY
}

packages=$(missing)
[ -z "$packages" ] && exit 0
# shellcheck disable=SC2086 # a list of words
apt_install $packages || true
packages=$(missing)
[ -z "$packages" ] || fail "Open3D needs system libraries that are missing: $packages
Install them and run make again:
    sudo apt-get update && sudo apt-get install -y $packages"
