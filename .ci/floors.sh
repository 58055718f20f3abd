#!/usr/bin/env bash
# Run the fast tests with the lowest versions that pyproject.toml allows, but for torch (see old_torch.sh), without the
# native training step, and then those of that step.
#   bash .ci/floors.sh [pytest's options]
#   FLOORS=folder bash .ci/floors.sh --install    no more than make the environment, for later calls with that folder
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=$(command -v python3.11 || command -v python3)
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {
  echo "The floor versions need Python 3.11, but $python is $("$python" --version)." >&2
  exit 1
}

# Where FLOORS names a folder, the environment is made there and stays; a second call takes it as it is.
if [[ -n ${FLOORS-} ]]; then
  work=$FLOORS
else
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
fi
if [[ ! -e $work/made ]]; then
  "$python" -m venv "$work/venv"
  sed "s/^torch==[0-9.]*/torch==${FLOOR_TORCH:-2.13.0}/" .ci/floors.txt >"$work/floors.txt"
  "$work/venv/bin/pip" install --quiet -r "$work/floors.txt"
  "$work/venv/bin/pip" install --quiet -c "$work/floors.txt" -e ".[test]"
  "$work/venv/bin/pip" check
  touch "$work/made"
fi
[[ ${1-} != --install ]] || exit 0

# "not slow": the long tests (examples, README, training to convergence) are about results, which the main job covers;
# this one is about calls that older versions might not know. Gradients that are held against autograd's know torch
# alone: where it is that of the main job, so are they.
torch_alone=()
[[ -n ${FLOOR_TORCH-} ]] || torch_alone=(-k "not equals_autograd")
SKVAE_NATIVE=0 "$work/venv/bin/python" -m pytest -m "not slow" -p no:cacheprovider "${torch_alone[@]}" "$@" </dev/null
"$work/venv/bin/python" -m pytest -p no:cacheprovider "${torch_alone[@]}" tests/test_native.py </dev/null
