#!/usr/bin/env bash
# bench/gpu.py where nothing is installed but torch, transformers, pytorch-lightning and torchmetrics, as on a rented
# GPU without a network. What else it takes comes as wheels:
#
#   bench/gpu.sh --wheels DIR        where there is a network: fetch them (10 MB) for python 3.12, or for $WHEELS_PYTHON
#   WHEELS=DIR bench/gpu.sh ...      on the GPU's machine: all else is bench/gpu.py's (--help)
#
# PYTHON names another interpreter than python3. Where bksdm is installed, it is used as it is.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
packages=(diffusers hydra-core omegaconf webdataset braceexpand tenacity importlib_metadata)

if [ "${1:-}" = --wheels ]; then
    folder=${2:?bench/gpu.sh --wheels DIR: name a folder}
    mkdir -p "$folder"
    systems=()
    for version in 2_28 2_27 2_17; do systems+=(--platform "manylinux_${version}_x86_64"); done
    get=("$python" -m pip download -q --no-deps --only-binary=:all: --implementation cp
        --python-version "${WHEELS_PYTHON:-3.12}" "${systems[@]}")
    "${get[@]}" -d "$folder" -c constraints.txt "${packages[@]}"
    # Apart: diffusers imports it wherever it lies, and only one section wants it.
    "${get[@]}" -d "$folder/xformers" xformers==0.0.35
    "$python" -m pip wheel -q --no-deps -w "$folder" -c constraints.txt antlr4-python3-runtime # has no wheel on PyPI
    exit
fi

if ! "$python" -P -c 'import bksdm.conf, diffusers, hydra, omegaconf, webdataset' 2>/dev/null; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    pip=("$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check)
    "${pip[@]}" --upgrade --target "$site" "${WHEELS:?bksdm is not installed here: WHEELS=DIR names its wheels}"/*.whl
    "${pip[@]}" --upgrade --no-build-isolation --target "$site" .
    if [ -d "$WHEELS/xformers" ]; then
        "${pip[@]}" --target "$site/only-xformers" "$WHEELS"/xformers/*.whl
        export BENCH_XFORMERS=$site/only-xformers
    fi
    export PYTHONPATH=$site
fi
export PYTHONPATH=${PYTHONPATH:+$PYTHONPATH:}$PWD PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
"$python" -P -m bench.gpu "$@"
