"""Every snippet of docs/python.md, from top to bottom; the example of help(fusec)."""

import ast
import re
import warnings
from pathlib import Path

import numpy as np

import fusec
from conftest import TORCH


def snippets(text):
    """Each with the line that it begins on, so that an error points into the page."""
    for match in re.finditer(r"^```python\n(.*?)^```$", text, re.M | re.S):
        yield text[: match.start(1)].count("\n"), match[1]


def test_the_page_runs(root, capsys):
    page = root / "docs/python.md"
    found = list(snippets(page.read_text()))
    assert len(found) > 10
    namespace, left_out = {}, []
    for line, code in found:
        needs_torch = re.search(r"\b(torch|block|compiled|chunk_gla)\b", code)
        if TORCH and needs_torch:
            left_out.append(line + 1)
            continue
        exec(compile("\n" * line + code, str(page), "exec"), namespace)
    printed = capsys.readouterr().out
    assert "axis `j` is 8, not 16" in printed and "kernel" in printed
    if left_out:
        warnings.warn(f"snippets of lines {left_out} need torch, which is not here, and were left out")


def test_the_example_of_help_runs(root):
    text = fusec.__doc__.split("Start with one of these::")[1].split("\n\nTensors come")[0]
    code = "\n".join(line[4:] for line in text.splitlines())
    code = code.split("# A layer of a torch model")[0].replace('"mixer.toml"', "ema")
    rng = np.random.default_rng(0)
    given = {n: rng.standard_normal((1, 3, 4, 16), dtype=np.float32) for n in "wkvr"}
    x = rng.standard_normal((1, 3, 32), dtype=np.float32)
    names = dict(given, ema=root / "docs/examples/ema.toml", x=x, x_next=x)
    exec(code, names)
    assert names["y"].shape == (1, 3, 32) and names["state"].position == 6


def test_everything_public_is_documented():
    for module in (fusec, __import__("fusec.ops").ops):
        for name in module.__all__:
            assert name.startswith("__") or getattr(module, name).__doc__, name


def test_the_stubs_are_those_of_the_module():
    stubs = Path(fusec.__file__).with_name("_native.pyi")
    tree = ast.parse(stubs.read_text())
    named = lambda nodes: {n.name for n in nodes if isinstance(n, (ast.ClassDef, ast.FunctionDef))}
    native = fusec._native
    assert named(tree.body) == {name for name in dir(native) if not name.startswith("__")}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not issubclass(getattr(native, node.name), Exception):
            own = {name for name in vars(getattr(native, node.name)) if name not in vars(object)}
            assert named(node.body) == own - {"__module__"}, node.name
