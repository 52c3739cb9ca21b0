#!/bin/bash
# A Ray cluster in a SLURM job, and one regraft command on it: sbatch deploy/ray/slurm.sh predict RUN IMAGES --out PARTS
# Everything is on storage that all nodes see. Submitted again, it computes what is missing.
#SBATCH --job-name=regraft
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
set -euo pipefail

cpus="${SLURM_CPUS_PER_TASK:?Submit it with sbatch.}"
head="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
port=$((20000 + SLURM_JOB_ID % 20000))
export RAY_USAGE_STATS_ENABLED=0

# Every node starts its part and waits; srun ends them with this script.
srun --nodes=1 --ntasks=1 --nodelist="$head" \
    ray start --head --port="$port" --num-cpus="$cpus" --disable-usage-stats --block &
for _ in $(seq 60); do
    ray health-check --address "$head:$port" 2>/dev/null && break
    sleep 2
done
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --exclude="$head" \
        ray start --address="$head:$port" --num-cpus="$cpus" --block &
fi
sleep 10

regraft "$@" --cluster "$head:$port"
