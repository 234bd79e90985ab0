#!/usr/bin/env bash
# tools/newest_python.sh: prints the newest Python of this machine that pyproject.toml names: on PATH, or one of pyenv's.
set -euo pipefail
cd "$(dirname "$0")/.."

for version in $(sed -n 's/.*Python :: \(3\.[0-9]*\)".*/\1/p' pyproject.toml | sort -rV); do
    for candidate in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python; do
        "$candidate" -c 'import ensurepip, venv, sys; print(sys.executable)' 2>/dev/null && exit
    done
done
echo "error: none of the Pythons that pyproject.toml names is here with its venv module" >&2
exit 1
