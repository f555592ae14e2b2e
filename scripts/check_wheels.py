"""Holds built packages to what they must be: what scripts/wheels.sh runs.

python check_wheels.py dependencies pyproject.toml     the core dependencies, a line each
python check_wheels.py files DIST SOURCE               what is in the archives, and what the library asks for
python check_wheels.py path DIST kernels|pure          the wheel of a kind
python check_wheels.py installed kernels|pure OUT.npz  the package that is installed: the command, and vectors
python check_wheels.py same A.npz B.npz                whether vectors of two packages agree
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from pathlib import Path

LIBRARY = "tercet/kernels/libtercet_kernels.so.1"
# The oldest systems that PyPI's manylinux2014 (PEP 599) serves: what a library may ask of them at most.
OLDEST = {"GLIBC": (2, 17), "CXXABI": (1, 3, 7), "GCC": (4, 8)}
SYSTEM = ("libc.so.", "libm.so.", "libstdc++.so.", "libgcc_s.so.", "ld-linux")
# Largest difference between vectors in float32 by the kernels and by torch.
TOLERANCE = 1e-5
TEXTS = ["A cat sat on the mat.", "Interest rates rose again.", "", "bridge " * 60]


def main(arguments: list[str]) -> int:
    """0, or 1 with every complaint on the standard error."""
    verb, *rest = arguments
    complaints = VERBS[verb](*rest)
    for complaint in complaints:
        print(f"wheels: {complaint}", file=sys.stderr)
    return 1 if complaints else 0


def dependencies(path: str) -> list[str]:
    """Prints the core dependencies."""
    import tomllib

    print("\n".join(tomllib.loads(Path(path).read_text(encoding="utf-8"))["project"]["dependencies"]))
    return []


def path(dist: str, kind: str) -> list[str]:
    """Prints where the wheel of a kind is."""
    print(wheel(Path(dist), kind))
    return []


def wheel(dist: Path, kind: str) -> Path:
    """The one wheel of a kind."""
    found = [path for path in dist.glob("*.whl") if path.name.endswith("-any.whl") is (kind == "pure")]
    if len(found) != 1:
        raise SystemExit(f"wheels: {dist} has {len(found)} wheels of the kind {kind!r}, not one: {found}")
    return found[0]


def files(dist: str, source: str) -> list[str]:
    """Complaints about what is in the two wheels and the sdist."""
    root = Path(source, "src")
    # `source` is a commit's: every file of the package but the kernels' source belongs, whatever its kind.
    native = {path.relative_to(root).as_posix() for path in Path(root, "tercet/kernels/cpp").iterdir()}
    code = {path.relative_to(root).as_posix() for path in Path(root, "tercet").rglob("*") if path.is_file()}
    code -= native
    complaints = []
    for kind in ("kernels", "pure"):
        archive = wheel(Path(dist), kind)
        with zipfile.ZipFile(archive) as opened:
            names = {name for name in opened.namelist() if ".dist-info/" not in name}
            wanted = code | ({LIBRARY} if kind == "kernels" else set())
            complaints += [f"{archive.name} lacks {name}" for name in sorted(wanted - names)]
            complaints += [f"{archive.name} should not hold {name}" for name in sorted(names - wanted)]
            if not re.search(
                r"-py3-none-" + ("any" if kind == "pure" else r"(linux|macosx)_\w+"), archive.name
            ):
                complaints.append(f"{archive.name} has another tag than py3-none-...")
            if LIBRARY in names and sys.platform == "linux":
                with tempfile.TemporaryDirectory() as folder:
                    complaints += library(Path(opened.extract(LIBRARY, folder)))
    [sdist] = Path(dist).glob("*.tar.gz")
    with tarfile.open(sdist) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    wanted = {f"src/{name}" for name in code | native} | {
        "setup.py",
        "pyproject.toml",
        "LICENSE",
        "README.md",
    }
    complaints += [f"{sdist.name} lacks {name}" for name in sorted(wanted - names)]
    complaints += [f"{sdist.name} holds the built {name}" for name in sorted(names) if ".so" in name]
    return complaints


def library(file: Path) -> list[str]:
    """Complaints about what the library exports and what it asks of a system, as readelf tells."""
    if shutil.which("readelf") is None:
        return ["readelf is not here, so the library cannot be read (Debian: apt install binutils)"]
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", readelf("--dynamic", file))
    symbols = [
        line.split() for line in readelf("--dyn-syms", file).splitlines() if re.match(r"\s*\d+:", line)
    ]
    named = [(row[6] != "UND", row[7]) for row in symbols if len(row) > 7]
    exported = [name for defined, name in named if defined]
    versions = {match[0]: match for _, name in named if (match := re.search(r"@+(\w+?)_([\d.]+)$", name))}
    print(f"library: exports {len(exported)} symbols; needs {', '.join(needed)}")
    print(f"library: asks for {', '.join(sorted(version.lstrip('@') for version in versions))}")
    complaints = [f"the library exports {name}" for name in exported if not name.startswith("tercet_")]
    complaints += [] if exported else ["the library exports nothing"]
    complaints += [f"the library needs {name}" for name in needed if not name.startswith(SYSTEM)]
    for match in versions.values():
        most = OLDEST.get(match[1], ())
        if tuple(int(part) for part in match[2].split(".")) > most:
            complaints.append(f"the library asks for {match[1]}_{match[2]}, newer than manylinux2014 has")
    return complaints


def readelf(option: str, file: Path) -> str:
    """What readelf says, in English."""
    command = ["readelf", "--wide", option, str(file)]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "LC_ALL": "C"}
    ).stdout


def installed(kind: str, out: str) -> list[str]:
    """Complaints about the installed package; its vectors go to `out`."""
    import numpy as np

    import tercet
    from tercet.kernels.native import absence
    from tercet.kernels.native import library as kernels

    package = Path(tercet.__file__).parent
    complaints = []
    if Path(sysconfig.get_path("purelib")) not in package.parents:
        complaints.append(f"tercet is imported from {package}, not from where it was installed")
    there = kernels()
    if kind == "kernels" and (there is None or not there.threaded):
        complaints.append(f"the kernels are absent, or have no threads: {absence() or there}")
    if kind == "pure" and (there is not None or "TERCET_BUILD_KERNELS=0" not in (absence() or "")):
        complaints.append(f"a pure package has kernels, or another reason for having none: {absence()}")
    doctor = json.loads(tercet_command("doctor", "--device", "cpu", "--json"))
    print(f"{kind}: kernels {doctor['kernels']}")
    if doctor["kernels"].startswith("none: ") is not (kind == "pure"):
        complaints.append(f"tercet doctor says of the kernels: {doctor['kernels']}")
    native = [row for row in doctor["capability"]["schemes"] if row["scheme"]["engine"] == "native_cpu"]
    # float16 has kernels for few processors only.
    native = [row for row in native if row["scheme"]["dtype"] != "float16"]
    if not native or any((row["failure"] is None) is (kind == "pure") for row in native):
        complaints.append(f"tercet doctor lists other formats of the native engine than expected: {native}")

    texts = Path("texts.jsonl")
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    wish = ("--model", "minilm", "--precision", "float32", "--device", "cpu")
    tercet_command("embed", str(texts), "--column", "text", *wish, "-o", f"{kind}-vectors.npz")
    model = tercet.load("minilm", precision="float32", device="cpu")
    vectors = model.encode(TEXTS).numpy().dense
    with np.load(f"{kind}-vectors.npz") as written:
        if not np.array_equal(written["dense"], vectors):
            complaints.append("tercet embed and tercet.load give different vectors")
    int8 = tercet.load("minilm", precision="int8", device="cpu")
    expected = "onednn" if kind == "pure" else "native_cpu"
    if int8.plan.scheme.engine != expected:
        complaints.append(f"int8 runs on {int8.plan.scheme.engine}, not on {expected}")
    cosines = (int8.encode(TEXTS).numpy().dense * vectors).sum(axis=1)
    if not cosines.min() > 0.98:
        complaints.append(f"int8 is further from float32 than it may be: cosines {cosines}")
    np.savez(out, dense=vectors)
    return complaints


def tercet_command(*arguments: str) -> str:
    """What the installed command prints."""
    program = Path(sysconfig.get_path("scripts"), "tercet")
    done = subprocess.run([str(program), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"wheels: tercet {' '.join(arguments)} failed:\n{done.stderr}")
    return done.stdout


def same(first: str, second: str) -> list[str]:
    """Complaints where vectors of two packages differ."""
    import numpy as np

    with np.load(first) as one, np.load(second) as other:
        difference = float(np.abs(one["dense"] - other["dense"]).max())
    print(f"vectors by the kernels and without them differ by {difference:.1e} at most")
    return [] if difference <= TOLERANCE else [f"vectors differ by {difference:.1e}, more than {TOLERANCE}"]


VERBS = {
    "dependencies": dependencies,
    "files": files,
    "path": path,
    "installed": installed,
    "same": same,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
