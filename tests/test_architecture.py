"""The floors of the house, read from its imports: each room imports only from those above it in the list of ARCHITECTURE.md."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import jpegdl

PACKAGE = Path(jpegdl.__file__).parent
#: From the ground up, as ARCHITECTURE.md lists them; what stands on one line may not import from one another.
FLOORS = [
    {"_version", "errors"},
    {"earlier", "extras", "files", "processes", "recipes", "settings"},
    {"random", "user_code", "parsing", "opener", "statistics"},
    {"functional"},
    {"kernels"},
    {"tables"},
    {"layer"},
    {"backbones", "data", "heatmaps"},
    {"calibrate"},
    {"runs"},
    {"training"},
    {"comparison"},
    {"pretrained"},
    {"robustness", "explain", "codec", "export"},
    {"classifier"},
    {"report"},
    {"cli"},
]
FACE = "jpegdl"  # __init__ hands on what others define, when it is asked for


def rooms():
    """The files of each room."""
    found = defaultdict(list)
    for file in sorted(PACKAGE.rglob("*.py")):
        name = file.relative_to(PACKAGE).with_suffix("").parts[0]
        found[FACE if name in ("__init__", "__main__") else name].append(file)
    return found


def imported(file):
    """The modules of this package that a file imports, wherever in it, but for the sake of types."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for_types = {
        id(node)
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and ast.unparse(test.test) == "TYPE_CHECKING"
        for node in ast.walk(test)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("jpegdl"))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jpegdl"):
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from below if node.module == "jpegdl" else [node.module]


def room_of(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in {room for floor in FLOORS for room in floor} else FACE


def test_every_room_has_a_floor():
    assert rooms().keys() - {FACE} == {room for floor in FLOORS for room in floor}


def test_each_room_imports_only_from_those_above_it_in_the_list():
    floor_of = {room: number for number, floor in enumerate(FLOORS) for room in floor}
    upward = {
        f"{file.relative_to(PACKAGE)} -> {module}"
        for room, files in rooms().items()
        for file in files
        for module in imported(file)
        if room != FACE and (other := room_of(module)) not in (room, FACE) and floor_of[other] >= floor_of[room]
    }
    assert upward == set()


def test_no_files_import_one_another_in_a_circle():
    names = {}
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
        names[".".join(parts)] = file
    arrows = {
        name: {
            other
            for module in imported(file)
            for other in (module, f"{module}.__init__")
            if other in names and other != name and not other.endswith("__init__")
        }
        for name, file in names.items()
    }
    done, path = set(), []

    def visit(name):
        if name in path:
            raise AssertionError(f"a circle: {' -> '.join([*path[path.index(name) :], name])}")
        if name in done:
            return
        path.append(name)
        for other in sorted(arrows[name]):
            visit(other)
        path.pop()
        done.add(name)

    for name in sorted(arrows):
        visit(name)


def test_no_public_name_is_defined_twice():
    """But for the kernels of the CPU and the GPU, which have one interface."""
    places = defaultdict(set)
    for file in PACKAGE.rglob("*.py"):
        if file.parent.name == "kernels":
            continue
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].add(str(file.relative_to(PACKAGE)))
    # Each command's file has its own parser and run.
    twice = {name: files for name, files in places.items() if len(files) > 1 and not all(f.startswith("cli/") for f in files)}
    assert twice == {}


def test_public_docstrings_begin_with_what_the_function_does():
    """A verb, as in "Return" and "Write": not a question word."""
    odd = []
    for file in set(PACKAGE.rglob("*.py")) - set((PACKAGE / "kernels").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                text = ast.get_docstring(node) or ""
                is_property = any("property" in ast.unparse(decorator) for decorator in node.decorator_list)
                if not is_property and re.match(r"(What|How|Whether|Why|Which|Where)\b", text):
                    odd.append(f"{file.relative_to(PACKAGE)}: {node.name}")
    assert odd == []


def test_the_page_lists_the_same_floors():
    page = PACKAGE.parents[1] / "ARCHITECTURE.md"
    if not page.is_file():  # an installed package
        return
    text = page.read_text(encoding="utf-8")
    listed = [
        set(re.findall(r"`(\w+?)(?:/|\.py)?`", line.split("|")[1])) for line in text.splitlines() if line.startswith("| `")
    ]
    assert [floor for floor in listed if floor] == FLOORS
