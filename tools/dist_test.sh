#!/usr/bin/env bash
# Test on the GPUs of one or several nodes; without a GPU, in as many processes on gloo.
#
#   tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of tools/test.py]
#
# NNODES, NODE_RANK, MASTER_ADDR and PORT are as for dist_train.sh.
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: [NNODES=1 NODE_RANK=0 MASTER_ADDR=127.0.0.1 PORT=29500] $0 CONFIG CHECKPOINT GPUS" \
        "[args]" >&2
    exit 2
fi
exec "$(dirname "$0")/launch.sh" test.py "$3" "$1" "$2" "${@:4}"
