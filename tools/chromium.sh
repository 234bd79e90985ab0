#!/usr/bin/env bash
# tools/chromium.sh: prints the path of a Chromium for the tests, which start their own, without a window.
# $CHROMIUM, else the one on PATH, else Debian's package is installed.
set -euo pipefail
step() { echo "==> $*" >&2; }
die() { echo "error: $*" >&2; exit 1; }

if [ -n "${CHROMIUM:-}" ]; then
    [ -x "$CHROMIUM" ] || die "CHROMIUM=$CHROMIUM is not a program"
    echo "$CHROMIUM"
    exit
fi
command -v chromium && exit
command -v apt-get >/dev/null || die "no chromium on PATH: install Chromium, or name its program in CHROMIUM"
if [ "$(id -u)" = 0 ]; then
    root=(env)
elif sudo -n true 2>/dev/null; then
    root=(sudo -n)
else
    die "no chromium on PATH; run this, then try again:  sudo apt-get install chromium"
fi
step "chromium: none on PATH, so Debian's is installed: apt-get install chromium"
"${root[@]}" apt-get -qq update >&2 || die "apt-get update failed: install chromium, or name its program in CHROMIUM"
"${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null ||
    die "apt-get install chromium failed: install it, or name its program in CHROMIUM"
command -v chromium || die "Debian's chromium is installed, but not on PATH: name its program in CHROMIUM"
