"""Debian packages, fetched and opened without root and without touching the host's own package state.

apt-get runs on a private root: its own index, cache and (empty) list of installed packages, and its own
architecture, so that nothing on the host has to be configured.  Package sources, keys and proxies are the
host's.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from revirt.errors import BuildError

_TIMEOUT_SECONDS = 900
_MEMBER_LIMIT = 128 << 20

# Read after the host's configuration.  Its hooks act on the host's package cache, and its further index
# targets (icons, file lists) are large and of no use here.
_CONFIGURATION = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear Acquire::IndexTargets::deb::DEP-11;
#clear Acquire::IndexTargets::deb::DEP-11-icons;
#clear Acquire::IndexTargets::deb::DEP-11-icons-small;
#clear Acquire::IndexTargets::deb::DEP-11-icons-large;
#clear Acquire::IndexTargets::deb::Contents-deb;
#clear APT::Architectures;
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Sandbox::User "";
Dir::State "{root}/state";
Dir::State::status "{root}/status";
Dir::Cache "{root}/cache";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
"""


@dataclass(frozen=True, slots=True)
class Package:
    """A package file, with the name and version in it."""

    file: Path
    name: str
    version: str


class PackageIndex:
    """What the host's package sources offer for *architecture*, indexed under *root* (created as needed)."""

    def __init__(self, root: Path, architecture: str, progress: Callable[[str], None]) -> None:
        for tool, package in (("apt-get", "apt"), ("apt-cache", "apt"), ("dpkg-deb", "dpkg")):
            if shutil.which(tool) is None:
                raise BuildError(
                    f"{tool} is not installed",
                    hint=f"on Debian install {package!r}; elsewhere give a kernel and an initrd of your own"
                    " with --kernel and --initrd",
                )
        if re.search(r'["{};\n]', str(root)):
            raise BuildError(
                f"apt cannot work in a directory called {str(root)!r}", hint="set REVIRT_CACHE to another"
            )
        self.architecture = architecture
        self._root = root
        self._progress = progress
        self._problem = ""
        self._prepare()

    def update(self) -> None:
        """Fetch the index anew.  A source that fails is left out, as apt-get itself does with old ones."""
        self._progress(f"fetching the package index ({self.architecture})")
        result = self._run(["apt-get", "update"], self._root, check=False)
        if result.returncode:
            self._problem = _last_line(result.stderr)
            self._progress(f"some package sources could not be read: {self._problem}")

    def resolve(self, metapackages: Sequence[str], pattern: str) -> str:
        """Return the package, matching *pattern*, that the first known of *metapackages* depends on.

        Raises BuildError if the sources know none of them.
        """
        for metapackage in metapackages:
            # Only what apt-get may fetch: a name that is merely mentioned has no record.
            shown = self._run(
                ["apt-cache", "show", "--no-all-versions", metapackage], self._root, check=False
            ).stdout
            for line in shown.splitlines():
                if line.startswith("Depends:") and (match := re.search(pattern, line)):
                    return match[0]
        why = f" ({self._problem})" if self._problem else ""
        raise BuildError(
            f"this host's package sources offer no {' or '.join(metapackages)} for {self.architecture}{why}",
            hint="it takes the sources of a Debian release that has it (bookworm does), and the network",
        )

    def download(self, names: Sequence[str], directory: Path) -> dict[str, Package]:
        """Fetch the packages *names* into *directory* and return them by name; raises BuildError."""
        self._progress(f"downloading {', '.join(names)} ({self.architecture})")
        self._run(["apt-get", "download", *names], directory)
        packages = [_describe(file) for file in sorted(directory.glob("*.deb"))]
        found = {package.name: package for package in packages}
        if missing := set(names) - found.keys():
            raise BuildError(f"apt-get did not deliver {', '.join(sorted(missing))}")
        return found

    def _prepare(self) -> None:
        for part in ("state/lists/partial", "cache/archives/partial"):
            (self._root / part).mkdir(parents=True, exist_ok=True)
        (self._root / "status").touch()
        configuration = _CONFIGURATION.format(architecture=self.architecture, root=self._root)
        (self._root / "apt.conf").write_text(configuration)

    def _run(
        self, command: Sequence[str], directory: Path, *, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        tool, *arguments = command
        return run_tool([tool, "-q", f"-c={self._root / 'apt.conf'}", *arguments], directory, check=check)


def run_tool(
    command: Sequence[str],
    directory: Path,
    *,
    check: bool = True,
    environment: Mapping[str, str] | None = None,
    hint: str = "check the network and the host's package sources, and try again",
) -> subprocess.CompletedProcess[str]:
    """Run *command* in *directory*, with *environment* besides the process's own, and return what it wrote.

    Raises BuildError, with the end of what it said and *hint*, if it fails (when *check*) or takes too long.
    """
    try:
        result = subprocess.run(
            command,
            cwd=directory,
            env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive", **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BuildError(f"{command[0]} did not finish within {_TIMEOUT_SECONDS} seconds") from None
    if check and result.returncode:
        raise BuildError(f"{Path(command[0]).name} failed: {_last_line(result.stderr)}", hint=hint)
    return result


def read_member(package: Package, pattern: str) -> bytes:
    """Return the contents of the first regular file in *package* whose path (no ``./``) matches *pattern*.

    Raises BuildError if there is none, or it is too large.
    """
    for _, contents in members(package, pattern):
        return contents
    raise BuildError(f"{package.name} {package.version} has no file like {pattern}")


def members(package: Package, pattern: str) -> Iterator[tuple[str, bytes]]:
    """Yield path (no ``./``) and contents of the regular files in *package* whose paths match *pattern*.

    Raises BuildError if the package cannot be unpacked.  A file that is too large is left out.
    """
    expression = re.compile(pattern)
    # Streamed: a kernel package unpacks to hundreds of megabytes of modules.
    command = ["dpkg-deb", "--fsys-tarfile", str(package.file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                for member in archive:
                    path = member.name.removeprefix("./")
                    if member.isreg() and member.size <= _MEMBER_LIMIT and expression.fullmatch(path):
                        contents = archive.extractfile(member)
                        if contents is not None:
                            yield path, contents.read()
        except tarfile.TarError as error:
            raise BuildError(f"{package.file.name} cannot be unpacked: {error}") from error
        finally:
            process.kill()


def extract(package: Package, directory: Path) -> None:
    """Unpack *package* into *directory*; raises BuildError if it cannot be unpacked."""
    run_tool(["dpkg-deb", "-x", str(package.file), str(directory)], directory)


def _describe(file: Path) -> Package:
    shown = run_tool(
        ["dpkg-deb", "-W", "--showformat=${Package}\n${Version}\n", str(file)], file.parent
    ).stdout
    name, version = shown.split("\n")[:2]
    return Package(file, name, version)


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("E: ") if lines else "it said nothing"
