#!/usr/bin/env bash
# tools/postgres.sh: prints the folder of PostgreSQL's programs for the tests, which start a server of their own.
# $POSTGRES_BIN, else that of the initdb on PATH, else Debian's, which is installed if it is missing. Where that cannot
# be done it prints nothing, and the tests of PostgreSQL are skipped.
set -euo pipefail
step() { echo "==> $*" >&2; }
die() { echo "error: $*" >&2; exit 1; }
none() { echo "warning: no PostgreSQL, its tests are skipped: $*" >&2; exit 0; }

debian() { find /usr/lib/postgresql -path '*/bin/initdb' -printf '%h\n' 2>/dev/null | sort -V | tail -n 1; }

if [ -n "${POSTGRES_BIN:-}" ]; then
    [ -x "$POSTGRES_BIN/initdb" ] || die "POSTGRES_BIN=$POSTGRES_BIN has no initdb"
    echo "$POSTGRES_BIN"
    exit
fi
if command -v initdb >/dev/null; then
    dirname "$(readlink -f "$(command -v initdb)")"
    exit
fi
found=$(debian)
if [ -z "$found" ]; then
    command -v apt-get >/dev/null || none "install PostgreSQL, or name the folder of its programs in POSTGRES_BIN"
    if [ "$(id -u)" = 0 ]; then
        root=(env)
    elif sudo -n true 2>/dev/null; then
        root=(sudo -n)
    else
        none "run this, then try again:  sudo apt-get install postgresql"
    fi
    step "postgresql: not there, so Debian's is installed: apt-get install postgresql"
    "${root[@]}" apt-get -qq update >&2 || die "apt-get update failed: install postgresql, or name its folder in POSTGRES_BIN"
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql >/dev/null ||
        die "apt-get install postgresql failed: install it, or name the folder of its programs in POSTGRES_BIN"
    found=$(debian)
    [ -n "$found" ] || die "Debian's postgresql is installed, but not in /usr/lib/postgresql: name its folder in POSTGRES_BIN"
fi
echo "$found"
