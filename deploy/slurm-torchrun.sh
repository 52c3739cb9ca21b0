#!/bin/bash
# Train on several machines with SLURM: sbatch deploy/slurm-torchrun.sh DATA RUN [OPTIONS OF regraft train]
# One task for each machine starts torchrun, which starts one process for each GPU. Preempted jobs continue the run.
#SBATCH --job-name=regraft
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=04:00:00
#SBATCH --requeue
set -euo pipefail
data=$1 run=$2
shift 2

# All machines must see the data, the run and the cache.
export REGRAFT_CACHE="${REGRAFT_CACHE:-$PWD/cache}"
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
words=("$data" --out "$run" "$@")
if [ -f "$run/source.json" ]; then
    words=(--resume "$run")
fi
srun --kill-on-bad-exit=1 torchrun \
    --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "${SLURM_GPUS_ON_NODE:-1}" \
    --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$first:29500" \
    -m regraft train "${words[@]}"
