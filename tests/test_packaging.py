import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def needed(requirements: list[str], extras: frozenset[str] = frozenset()) -> list[Requirement]:
    """Those whose marker holds here; our own extras are left out, as each is looked at itself."""
    applicable = []
    for requirement in map(Requirement, requirements):
        markers = [{"extra": extra} for extra in extras or {""}]
        holds = requirement.marker is None or any(requirement.marker.evaluate(marker) for marker in markers)
        if holds and requirement.name != PROJECT["name"]:
            applicable.append(requirement)
    return applicable


def closure() -> set[str]:
    """Every distribution that core and extras bring along, as far as it is installed here."""
    waiting = needed([*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)])
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            waiting += needed(distribution(requirement.name).requires or [], key[1])
        except PackageNotFoundError:
            continue
    return {name for name, _ in seen}


def committed() -> list[Path]:
    """The project's own files; a fresh copy need not have git, so what .gitignore leaves out is left out by name."""
    made = {"__pycache__", "build", "dist", "node_modules"}
    files = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
    return [path for path in files if not any(part in made or part.startswith(".") for part in path.parts[:-1])] + [
        Path(".ci/run")
    ]


def test_constraints_cover_every_dependency_and_what_it_needs():
    assert closure() - constraints().keys() == set()


def test_what_is_installed_is_what_the_constraints_say():
    for name, version in constraints().items():
        try:
            assert distribution(name).version == version, name
        except PackageNotFoundError:
            continue


def test_constraints_are_plain_versions_within_what_we_declare():
    pinned = constraints()
    assert all(re.fullmatch(r"[0-9][0-9a-z.]*", version) for version in pinned.values())
    for requirement in needed([*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)]):
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


def test_no_file_names_a_registry():
    """Whoever installs this chooses where packages come from."""
    hosts = [("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("anaconda", "org"), ("deb", "debian", "org")]
    forbidden = [r"\.".join(parts) for parts in hosts] + ["--(extra-)?index" + "-url", "--find" + "-links"]
    pattern = re.compile("|".join(forbidden).encode())
    named = [path for path in committed() if pattern.search((ROOT / path).read_bytes())]
    assert named == []


def test_every_extra_is_reached_by_dev_except_the_baselines_of_the_benchmarks():
    reached, waiting = set(), ["dev"]
    while waiting:
        extra = waiting.pop()
        reached.add(extra)
        for requirement in map(Requirement, EXTRAS[extra]):
            waiting += requirement.extras if requirement.name == PROJECT["name"] else []
    assert EXTRAS.keys() - reached == {"bench"}


def test_docs_say_why_for_each_dependency():
    told = (ROOT / "docs" / "dependencies.md").read_text()
    declared = needed([*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)])
    assert [requirement.name for requirement in declared if f"`{requirement.name}`" not in told] == []


def test_the_core_imports_no_optional_library():
    optional = {
        "IPython",
        "anywidget",
        "hiredis",
        "ipywidgets",
        "msgspec",
        "numpy",
        "pandas",
        "psycopg",
        "pyarrow",
        "pydantic",
        "redis",
    }
    program = "import sys, sagaz_lab; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    assert optional & set(loaded.stdout.split()) == set()


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_an_extra_is_named_as_the_index_would_name_it(extra):
    assert canonicalize_name(extra) == extra


def test_the_wheel_holds_every_file_of_the_package(tmp_path):
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=ROOT, check=True)
    (wheel,) = tmp_path.glob("sagaz_lab-*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if not name.partition("/")[0].endswith(".dist-info")}
    sources = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "sagaz_lab").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == sources
