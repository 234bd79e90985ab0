#!/usr/bin/env bash
# tools/setup.sh [EXTRA]: a virtual environment ($VENV, else .venv) with this package, editable, and the extra's
# dependencies at the versions of constraints.txt. Does nothing where that has been done.
set -euo pipefail
cd "$(dirname "$0")/.."
extra=${1:-dev}
venv=${VENV:-.venv}
step() { echo "==> $*"; }
die() { echo "error: $*" >&2; exit 1; }

suits() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# Debian ships Python without its venv module.
install_venv() {
    local command=(apt-get install -y --no-install-recommends "$1")
    if ! command -v apt-get >/dev/null; then
        die "$python has no ensurepip module, which virtual environments need: install it"
    elif [ "$(id -u)" = 0 ]; then
        local root=(env)
    elif sudo -n true 2>/dev/null; then
        local root=(sudo -n)
    else
        die "$python cannot make virtual environments; run this, then try again:  sudo apt-get install $1"
    fi
    step "apt-get install $1 (Debian ships Python without its venv module)"
    "${root[@]}" apt-get -qq update
    "${root[@]}" DEBIAN_FRONTEND=noninteractive "${command[@]}" -qq >/dev/null ||
        die "failed: ${command[*]}"
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        suits "$PYTHON" || die "PYTHON=$PYTHON: not found, or older than Python 3.11"
        echo "$PYTHON"
        return
    fi
    for candidate in python3 python3.13 python3.12 python3.11; do
        if suits "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    die "no Python of 3.11 or later on PATH; on Debian: apt-get install python3 python3-venv"
}

python=$(find_python)
version=$("$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')
minor=python${version%.*}
wanted=$(cat pyproject.toml constraints.txt tools/setup.sh | sha256sum | cut -d' ' -f1)
stamp=$venv/.ready-$extra

# Two set-ups at once (two terminals) take turns.
if command -v flock >/dev/null; then
    exec 9>.setup.lock
    flock 9
fi

# $venv/.made: the Python it was made with and the folder it was made in.
if [ -d "$venv" ]; then
    read -r made_with made_in 2>/dev/null <"$venv/.made" || made_with=unknown made_in=unknown
    if [ "$made_in" != "$PWD" ] || [ "${PYTHON:+$version}" != "${PYTHON:+$made_with}" ]; then
        step "virtual environment $venv is for Python $made_with in $made_in: removed"
        rm -rf "$venv"
    fi
fi
[ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && "$venv/bin/python" -c '' 2>/dev/null && exit 0

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    install_venv "$minor-venv"
fi
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    step "virtual environment $venv ($minor)"
    rm -rf "$venv"
    "$python" -m venv "$venv"
    echo "$version $PWD" >"$venv/.made"
fi

pip() { "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@" -c constraints.txt; }
step "dependencies of [$extra] at the versions of constraints.txt (the first time: about a minute)"
pip install pip setuptools
pip install --build-constraint constraints.txt --editable ".[$extra]"
echo "$wanted" >"$stamp"
step "ready: $venv ($("$venv/bin/python" --version))"
