#!/usr/bin/env bash
# tools/kernels.sh: ipykernel at the versions that the notebook must work on besides that of constraints.txt, each in a
# folder of its own below build/kernels, to go before the environment's on PYTHONPATH. Prints the folder of these folders.
# Only ipykernel itself: what it needs is in the environment already, at versions that each of them accepts.
set -euo pipefail
cd "$(dirname "$0")/.."
step() { echo "==> $*" >&2; }
home=$PWD/build/kernels

for version in 6.31.0 7.3.0; do
    [ -d "$home/$version" ] && continue
    step "ipykernel $version, into build/kernels"
    rm -rf "$home/new-$version"
    "${VENV:-.venv}/bin/python" -m pip --disable-pip-version-check --quiet install --no-deps --only-binary :all: \
        --target "$home/new-$version" "ipykernel==$version" >&2
    mv "$home/new-$version" "$home/$version"
done
echo "$home"
