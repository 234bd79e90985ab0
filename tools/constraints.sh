#!/usr/bin/env bash
# tools/constraints.sh: resolves every extra together on the oldest Python we support and writes the
# versions to constraints.txt. That Python is Debian 12's 3.11.2: some packages ask for a later 3.11.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-/usr/bin/python3.11}
echo "==> newest versions for all extras, $("$python" --version)"
rm -rf build/constraints
"$python" -m venv build/constraints
pip() { build/constraints/bin/python -m pip --disable-pip-version-check --quiet "$@"; }
# The first line: what builds our package and the dependencies that have no wheel.
pip install --upgrade pip 'setuptools<81' hatchling editables
pip install --editable '.[dev,bench]'
pip check
{
    echo "# The exact versions of everything that set-up installs, for Python 3.11 to 3.13."
    echo "# \`make constraints\` writes this file anew from pyproject.toml."
    build/constraints/bin/python -m pip freeze --all --exclude-editable
} >build/constraints.txt
if grep -n '@' build/constraints.txt; then
    echo "error: these are no plain versions" >&2
    exit 1
fi
mv build/constraints.txt constraints.txt
rm -rf build/constraints
echo "==> constraints.txt: $(grep -c '==' constraints.txt) packages"
