"""The house itself: what may be imported where, and that tree and wheel both stand alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SITE_PACKAGES = sysconfig.get_paths()["purelib"]


def python(*arguments: str, roots: tuple[Path, ...] = (), cwd: Path = ROOT) -> str:
    """Run a Python that ignores the editable install (no .pth files are read) and finds only `roots` and packages."""
    path = os.pathsep.join([*map(str, roots), SITE_PACKAGES])
    command = [sys.executable, "-S", *arguments]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_transformers_imports_from_the_root_of_the_repository():
    # transformers looks for a library named `kernels`; a package of ours of that name would be taken for it.
    code = "from transformers import AutoModelForCausalLM; print(AutoModelForCausalLM.__name__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "AutoModelForCausalLM"
    assert not list((ROOT / "kernels").glob("__init__.py"))
    assert not list((ROOT / "harness").glob("__init__.py"))


def test_the_command_line_starts_light():
    code = "import sys, json, tokenwatt.cli; print(json.dumps(sorted(sys.modules)))"
    loaded = set(json.loads(python("-c", code, roots=(ROOT / "harness",))))
    assert loaded.isdisjoint({"torch", "triton", "transformers", "pandas", "pyarrow", "numpy", "pydantic", "plotly"})


@pytest.mark.parametrize(
    "module",
    ["tokenwatt.store", "tokenwatt.economics.scenario", "tokenwatt.perf_model.roofline", "tokenwatt.report.html"],
)
def test_the_study_wing_runs_without_torch(module):
    code = f"import sys; sys.modules['torch'] = None; sys.modules['pynvml'] = None; import {module}; print('ok')"
    assert python("-c", code, roots=(ROOT / "harness", ROOT / "kernels")).strip() == "ok"


def test_the_tree_runs_uninstalled_from_anywhere(tmp_path):
    roots = (ROOT / "harness", ROOT / "kernels")
    out = python("-m", "tokenwatt", "bench", "demo", "--results", str(tmp_path), "--json", roots=roots, cwd=tmp_path)
    assert [row["status"] for row in json.loads(out)] == ["ok", "ok"]


def test_an_installed_wheel_carries_workloads_and_facts(tmp_path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    wheels, target = tmp_path / "wheels", tmp_path / "target"
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = wheels.glob("tokenwatt-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True, capture_output=True)
    code = (
        "from tokenwatt.model_config import load_architecture; from tokenwatt.workloads import library_folder;"
        "import tokenwatt_kernels; print(library_folder()); print(load_architecture('Qwen3-8B').parameters)"
    )
    folder, parameters = python("-c", code, roots=(target,), cwd=tmp_path).splitlines()
    assert Path(folder).is_relative_to(target)
    assert parameters == "8190735360"
    out = python("-m", "tokenwatt", "fleet", "--json", roots=(target,), cwd=tmp_path)
    assert len(json.loads(out)["systems"]) == 5
