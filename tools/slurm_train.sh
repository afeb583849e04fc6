#!/usr/bin/env bash
# Train under Slurm: tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [arguments of train.py]
#
# GPUS (8), GPUS_PER_NODE (8), CPUS_PER_TASK (5) and SRUN_ARGS are taken from the environment.
# GPUS=0 with NTASKS=2 runs two processes on CPUs. Two minutes before its time is up, Slurm sends
# SIGUSR1: the run saves its state and exits with 138, and the same command with --resume goes on.
set -euo pipefail
if [ $# -lt 4 ]; then
    echo "usage: [GPUS=8 GPUS_PER_NODE=8 CPUS_PER_TASK=5 SRUN_ARGS=...] $0 PARTITION JOB_NAME" \
        "CONFIG WORK_DIR [args]" >&2
    exit 2
fi
GPUS=${GPUS:-8}
GPUS_PER_NODE=${GPUS_PER_NODE:-8}
if [ "$GPUS" -gt 0 ]; then
    per_node=$((GPUS < GPUS_PER_NODE ? GPUS : GPUS_PER_NODE))
    resources=(--gres="gpu:$per_node" --ntasks="$GPUS" --ntasks-per-node="$per_node")
else
    resources=(--ntasks="${NTASKS:-2}")
fi
# shellcheck disable=SC2086  # SRUN_ARGS is a list of words
exec srun -p "$1" --job-name="$2" "${resources[@]}" --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 --signal=USR1@120 ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$(dirname "$0")/train.py" "$3" --work-dir "$4" "${@:5}" \
    --launcher slurm
