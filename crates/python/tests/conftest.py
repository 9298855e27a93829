"""Run against an installed wheel: `cargo xtask wheel`."""

from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]

try:
    import torch  # noqa: F401

    TORCH = None
except ImportError as error:
    TORCH = str(error)


def pytest_report_header(config):
    return "torch: " + (f"not here ({TORCH}); its tests are skipped" if TORCH else "here")


def pytest_ignore_collect(collection_path, config):
    # Said aloud in the header, and again at the end.
    return True if TORCH and collection_path.name.startswith("test_torch") else None


def pytest_terminal_summary(terminalreporter):
    if TORCH:
        terminalreporter.write_line(f"SKIPPED: the tests with torch, which is not here ({TORCH})")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def root():
    return ROOT
