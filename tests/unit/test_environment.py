"""The environment files agree: pyproject.toml, constraints.txt, environment.yml; and the library imports lightly."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib

import yaml

from orchard.paths import root


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def constraints() -> dict[str, str]:
    lines = (root() / "constraints.txt").read_text().splitlines()
    return {
        canonical(n): v for n, _, v in (line.partition("==") for line in lines if line and not line.startswith("#"))
    }


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((root() / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [d for extra in project["optional-dependencies"].values() for d in extra]
    names = {canonical(re.split(r"[\[<>=; ]", d)[0]) for d in wanted} - {"orchard"}
    names -= {"triton"}  # a CUDA build of torch names the one it needs, a pin could contradict it
    assert names <= set(constraints())
    version = tuple(map(int, constraints()["lightning"].split(".")))
    assert version >= (2, 6, 4)


def test_conda_users_get_the_same_versions() -> None:
    environment = yaml.safe_load((root() / "environment.yml").read_text())
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    requirements = [line.partition(";")[0].strip() for line in pip]
    pins = dict(line.split("==") for line in requirements if "==" in line)
    assert {canonical(n): v for n, v in pins.items()}.items() <= constraints().items()
    card = {"jupyterlab", "torch", "lightning", "matplotlib", "seaborn", "einops", "wandb", "datasets", "ipywidgets"}
    assert card <= {canonical(n) for n in pins}
    project = tomllib.loads((root() / "pyproject.toml").read_text())["project"]
    assert {canonical(re.split(r"[<>=; ]", d)[0]) for d in project["dependencies"]} <= {canonical(n) for n in pins}


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import json, sys, orchard, orchard.cli; print(json.dumps(sorted(sys.modules)))"
    modules = json.loads(subprocess.check_output([sys.executable, "-c", code], text=True))
    assert not {"torch", "lightning", "pandas", "matplotlib", "datasets", "wandb", "papermill"} & set(modules)


def test_the_library_imports_without_notebooks_datasets_and_wandb() -> None:
    code = (
        "import sys; sys.modules.update({m: None for m in ('papermill', 'nbformat', 'nbclient', 'ipywidgets', 'jupyterlab', 'IPython',"
        "'datasets', 'wandb', 'beartype', 'nbconvert')});"
        "import orchard.series, orchard.cli, orchard.notebooks, orchard.report, orchard.widgets;"
        "from orchard.papers.rattention import experiments; from orchard.papers.rattention.figures import sweep"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
