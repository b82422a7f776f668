#!/usr/bin/env bash
# Kills one of two processes at random moments, again and again, and compares what the run ends with, to the bit, with a run that
# nobody disturbed. The binary is one built with `--features mpi`.
#
#   tests/kills.sh SCRL [KILLS=20] [SEED=0]
#
# Needs Open MPI.
set -euo pipefail
scrl=$(readlink -f "$1")
kills=${2:-20}
RANDOM=${3:-0}
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"$scrl" --quiet synth --out data --set train=4 --set val=2 --set unlabelled=64 --set class_images=2 --set width=64 --set height=64
cat > scrl.toml <<'TOML'
method = "scrl"
[model]
arch = "resnet18"
width = 0.125
[augment]
view_size = 48
[boxes]
count = 4
min_size = 8.0
[heads]
hidden = 32
output = 16
pool_level = "c4"
[schedule]
epochs = 60
batch_size = 8
base_lr = 0.05
[log]
interval = 1
checkpoint_steps = 5
health_every = 0
TOML
train=(mpirun -n 2 --bind-to none --oversubscribe "$scrl" --quiet pretrain --config scrl.toml --data data/unlabelled --distributed)
steps() { grep -c '"train"' "$1/metrics.jsonl" 2> /dev/null || true; }

begun=$(date +%s%N)
"${train[@]}" --out whole
took=$(( ($(date +%s%N) - begun) / 1000000 ))
resume=
done=0
runs=0
finish() {
    cmp whole/weights/backbone.safetensors killed/weights/backbone.safetensors
    rm -rf killed
    resume=
    runs=$((runs + 1))
}
while [ "$done" -lt "$kills" ]; do
    # Up to a quarter of the whole run: some while it starts, some in a step, some while a checkpoint is written.
    wait=$(( (RANDOM * 32768 + RANDOM) % (took / 4) ))
    "${train[@]}" --out killed $resume > log 2>&1 &
    job=$!
    sleep "$(printf '%d.%03d' $((wait / 1000)) $((wait % 1000)))"
    ranks=$(pgrep -P "$job" || true)
    rank=$(echo $ranks | cut -d' ' -f $((1 + RANDOM % 2)))
    [ -n "$rank" ] && kill -9 "$rank" || true
    ended=$(date +%s)
    wait "$job" && code=0 || code=$?
    [ $(( $(date +%s) - ended )) -lt 60 ] || { echo "the other process did not end" >&2; exit 1; }
    if [ "$code" = 0 ]; then
        finish
        continue
    fi
    done=$((done + 1))
    echo "kill $done after $wait ms: exit code $code, $(steps killed) steps logged"
    [ -n "$(ls -A killed/checkpoints 2> /dev/null)" ] && resume=--resume || rm -rf killed
done
"${train[@]}" --out killed $resume
finish
echo "$runs runs had the same weights to the bit after $done kills"
