#!/usr/bin/env bash
# The fast tests with the lowest torch that pyproject.toml allows, beside the lowest versions of everything else. By hand:
# of an old torch the package index has CUDA's build alone, 2.6 GB to fetch and 6 GB on the disk, for which floors.sh
# keeps a newer one.
#
# Last run: 2026-11-29, torch 2.4.1+cu121 on a CPU, Python 3.11.7, file by file, without those of documents, packaging,
# examples, architecture and robustness. What failed was four of scikit-learn's array API checks, which make their own
# arrays on a GPU: there was no driver of CUDA's.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
FLOOR_TORCH=2.4.1 bash .ci/floors.sh "$@"
