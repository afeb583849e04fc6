#!/usr/bin/env bash
# Train on the GPUs of one or several nodes; without a GPU, in as many processes on gloo.
#
#   tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]
#
# On several nodes, run it on each with its own NODE_RANK:
#
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 PORT=29500 tools/dist_train.sh CONFIG 8
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: [NNODES=1 NODE_RANK=0 MASTER_ADDR=127.0.0.1 PORT=29500] $0 CONFIG GPUS [args]" >&2
    exit 2
fi
exec "$(dirname "$0")/launch.sh" train.py "$2" "$1" "${@:3}"
