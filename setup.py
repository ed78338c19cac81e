"""Builds the C core; everything else about the package is in pyproject.toml."""

import importlib.util
from pathlib import Path

from setuptools import Extension, setup

unicorn = importlib.util.find_spec("unicorn")
assert unicorn is not None, "pyproject.toml lists unicorn as needed for the build"
assert unicorn.origin is not None
core = Path("revirt/core")

setup(
    ext_modules=[
        Extension(
            "revirt.core._core",
            sources=sorted(str(path) for path in core.glob("*.c")),
            depends=sorted(str(path) for path in core.glob("*.h")),
            include_dirs=[str(Path(unicorn.origin).parent / "include")],
            extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden"],
            libraries=["dl"],
        )
    ]
)
