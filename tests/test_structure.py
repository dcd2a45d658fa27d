"""The house itself: layers, circles, the README's map, and what importing costs."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gpunet

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(gpunet.__file__).parent
LAYERS = {
    "errors": 0,
    "sizes": 0,
    "commas": 0,
    "config": 1,
    "isolation": 1,
    "random": 1,
    "signals": 1,
    "device": 1,
    "view": 1,
    "kernels": 2,
    "graph": 2,
    "run": 2,
    "about": 3,
    "options": 2,
    "gates": 3,
    "launches": 3,
    "optim": 3,
    "metrics": 3,
    "data": 3,
    "formula": 4,
    "fuse": 4,
    "gradcheck": 3,
    "gradcases": 5,
    "model": 5,
    "fusion": 5,
    "persistent": 5,
    "engine": 6,
    "initial": 6,
    "forensics": 6,
    "loop": 7,
    "inference": 8,
    "predict": 9,
    "branches": 4,
    "bootstrap": 4,
    "presets": 4,
    "calibration": 4,
    "linear": 4,
    "baselines": 10,
    "evaluation": 11,
    "auto": 8,
    "memory": 8,
    "speed": 7,
    "ensemble": 10,
    "job": 12,
    "rerun": 13,
    "outlook": 13,
    "repeats": 13,
    "space": 13,
    "tuning": 14,
    "heldout": 14,
    "comparison": 15,
    "permutation": 10,
    "slicing": 11,
    "follow": 15,
    "cli": 16,
    "__main__": 17,
    "__init__": 0,
}
FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, skip_typing: bool = False) -> set[str]:
    """Every gpunet module that a file imports, inside functions too."""
    tree, found = ast.parse(path.read_text()), set()
    known = {module_name(each) for each in FILES}
    ignored = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in ignored:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                deeper = f"{node.module}.{alias.name}"
                found.add(deeper if deeper in known else node.module)
    return {name for name in found if name.split(".")[0] == "gpunet"}


def external(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_a_room_imports_lower_layers_only(path: Path) -> None:
    if path == PACKAGE / "__init__.py":
        assert imports(path) == set()
        return
    for name in imports(path):
        parts = name.split(".")
        if len(parts) == 1:
            continue
        assert parts[1] == room(path) or LAYERS[parts[1]] < LAYERS[room(path)], (
            f"{module_name(path)} imports {name}"
        )


def test_no_circles() -> None:
    from graphlib import TopologicalSorter

    graph = {module_name(p): imports(p) - {module_name(p), "gpunet"} for p in FILES}
    TopologicalSorter(graph).prepare()


def test_every_room_has_a_layer() -> None:
    assert {room(path) for path in FILES} == set(LAYERS)


def test_the_readme_names_every_room_with_its_layer() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    named = {}
    for line in lines:
        words = line.split()
        if len(words) > 2 and words[1].startswith("L") and words[1][1:].isdigit():
            named[words[0].rstrip("/").removesuffix(".py")] = int(words[1][1:])
    rooms = {name: layer for name, layer in LAYERS.items() if not name.startswith("__")}
    assert named == rooms


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_only_one_file_imports_cupy(path: Path) -> None:
    if module_name(path) != "gpunet.device.cuda":
        assert "cupy" not in external(path)


WRITES = {"write_text", "write_bytes", "mkdir", "makedirs", "touch", "unlink", "rmdir", "rmtree"}
WRITES |= {"symlink_to", "hardlink_to", "copyfile", "move", "extractall", "extract", "memmap"}
WRITES |= {"savez", "savez_compressed", "savetxt", "tofile", "NamedTemporaryFile", "mkstemp"}
WRITES |= {"os.rename", "os.replace", "os.remove", "os.truncate", "os.link", "np.save"}


def writes(code: str) -> list[str]:
    """The calls in a module that change a disk."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            modes = [*node.args[1:2], *(k.value for k in node.keywords if k.arg == "mode")]
            opened = [ast.unparse(mode) for mode in modes] if name == "open" else []
            if {name, name.rpartition(".")[2]} & WRITES or set("wax+") & set("".join(opened)):
                found.append(f"line {node.lineno}: {name}")
    return found


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_only_the_run_room_writes_and_nothing_evaluates(path: Path) -> None:
    banned = {"eval", "exec", "compile"}
    assert not external(path) & {"pickle", "shelve", "marshal"}
    code = path.read_text()
    assert "allow_pickle=True" not in code
    assert room(path) == "run" or writes(code) == []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in banned, f"line {node.lineno}: {node.func.id}"


@pytest.mark.parametrize(
    "code",
    [
        "open(path, 'w')",
        "open(path, mode='ab')",
        "Path('x').write_text('')",
        "os.replace(a, b)",
        "np.savez('x', y=y)",
        "archive.extractall()",
    ],
)
def test_what_changes_a_disk_is_seen(code: str) -> None:
    assert writes(code) == [f"line 1: {code.split('(')[0]}"] or "Path" in code
    assert writes("open(path)\nopen(path, 'rb')\ntext.replace('a', 'b')") == []


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_modules_open_with_a_sentence_and_functions_stay_short(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "no module docstring"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length <= 50, f"{node.name} has {length} lines"
            assert node.returns is not None, f"{node.name} has no return annotation"


def test_no_test_name_stands_twice() -> None:
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        names = [n.name for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef)]
        assert len(names) == len(set(names)), path.name


def loaded_by(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_help_imports_neither_numpy_nor_cupy() -> None:
    code = "from gpunet.cli import _run\n_run(['--help'])\n_run(['train', '--help'])"
    assert not loaded_by(code) & {"numpy", "cupy", "pyarrow"}


def test_importing_gpunet_loads_nothing_heavy() -> None:
    for code in ("import gpunet", "import gpunet\ngpunet.errors.GpunetWarning"):
        assert not loaded_by(code) & {"numpy", "cupy", "pyarrow", "typer", "rich"}


def test_every_public_name_is_there() -> None:
    for name in gpunet.__all__:
        assert getattr(gpunet, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        gpunet.nonsense  # noqa: B018


def test_a_type_checker_knows_every_public_name() -> None:
    tree = ast.parse(Path(gpunet.__file__).read_text())
    told = {
        alias.asname: (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    homes = {name: (f"gpunet.{home}", name) for name, home in gpunet._HOMES.items()}
    assert {name: at for name, at in told.items() if name} == {
        **homes,
        "errors": ("gpunet", "errors"),
    }


def test_a_users_script_is_checked_against_the_public_names(tmp_path: Path) -> None:
    script = ROOT / "tests" / "typed.py"
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), script]
    env = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
