# Shared by the set-up scripts: finding Python, and apt where it may be used.

MINIMUM="3.11"

say() { printf '%s\n' "$*"; }
fail() {
    printf '%s\n' "$*" >&2
    exit 2
}

# Print the first interpreter that is new enough; $PYTHON wins where it is set.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return 0
        fi
    done
    return 1
}

# Run apt-get as root or with a sudo that asks nothing; fails (1) where neither is possible.
apt_install() {
    local sudo=()
    command -v apt-get >/dev/null || return 1
    if [ "$(id -u)" -ne 0 ]; then
        sudo -n true 2>/dev/null || return 1
        sudo=(sudo -n)
    fi
    local apt=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq)
    say "Installing with apt-get: $*"
    # A fresh image has no package lists yet, so the first try may fail for that reason alone.
    "${apt[@]}" install -y --no-install-recommends "$@" >/dev/null 2>&1 </dev/null && return 0
    "${apt[@]}" update </dev/null >/dev/null && "${apt[@]}" install -y --no-install-recommends "$@" </dev/null >/dev/null
}
