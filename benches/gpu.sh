#!/usr/bin/env bash
# Measures scrl on one NVIDIA GPU beside PyTorch on the same card, most telling figures first, and checks that the GPU
# computes what the CPU computes. Results are appended as they come, so that an interrupted run is still worth reading.
#
#   benches/gpu.sh SCRL OUT [DEVICE]
#
# SCRL is a binary built with `--features cuda-nvrtc`; OUT a folder for results.jsonl and logs; DEVICE defaults to cuda:0
# (`wgpu` or `cpu` try the script out, at tiny sizes and without PyTorch). Needs python3 with torch and torchvision, and
# the headers and libraries of the CUDA toolkit (CUDA_PATH, or PyPI's nvidia-cuda-* wheels). About ten minutes.
set -uo pipefail
scrl=$(readlink -f "$1"); out=$2; device=${3:-cuda:0}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"; out=$(cd "$out" && pwd); results=$out/results.jsonl; log=$out/log.txt
limit=${GPU_STEP_SECONDS:-100}
cd "$out"
# Kernels that were tuned and compiled once are found again by the commands after; keep this folder between runs. They are
# kept there where no folder above the current one has a Cargo.toml.
export XDG_CACHE_HOME=${XDG_CACHE_HOME:-$out/cache}

# note NAME COMMAND...: runs it within the limit; its last line goes to the results with the most memory of the card that was in
# use meanwhile, the rest to the log.
note() {
    local name=$1 start=$SECONDS text status watcher= memory=null; shift
    printf '\n== %s: %s\n' "$name" "$*" >> "$log"
    if [[ $device == cuda* ]]; then
        nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits --loop-ms=200 > "$out/memory.txt" 2>> "$log" & watcher=$!
    fi
    text=$(timeout -s KILL "$limit" "$@" 2>> "$log"); status=$?
    if [ -n "$watcher" ]; then
        kill "$watcher"; wait "$watcher" 2> /dev/null
        memory=$(sort -n "$out/memory.txt" | tail -n 1)
    fi
    printf '%s\n' "$text" >> "$log"
    text=$(printf '%s\n' "$text" | tail -n 1)
    case $text in "{"*) ;; *) text="\"$(printf '%s' "$text" | tr -d '"\\' | cut -c1-200)\"" ;; esac
    printf '{"name": "%s", "status": %s, "wall_s": %s, "gpu_mib": %s, "result": %s}\n' \
        "$name" "$status" $((SECONDS - start)) "${memory:-null}" "$text" | tee -a "$results"
}

peer() { local name=$1 script=$2; shift 2; note "torch $name" python3 "$here/peers/$script" --device "$device" --threads 8 "$@"; }

case $device in
    cuda*)
        nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee -a "$log"
        net=(--arch resnet50 --size 224); small=64; large=256; steps=10 ;;
    *) net=(--arch resnet18 --size 64); small=2; large=4; steps=2 ;;
esac
kernels=(--kernels 12); [[ $device != cpu ]] || kernels=()
bench() { local name=$1; shift; note "scrl $name" "$scrl" bench "$@" --device "$device" --threads 8 "${kernels[@]}"; }

bench "step $small" pretrain "${net[@]}" --batch $small --steps $steps
if [[ $device == cuda* ]]; then
    bench "step $small bf16" pretrain "${net[@]}" --batch $small --steps $steps --precision bf16
    for precision in f32 tf32 bf16; do
        peer "step $small $precision channels_last" scrl_step.py "${net[@]}" --batch $small --steps $steps --layout channels_last --precision $precision
    done
fi
bench "forward $small" forward "${net[@]}" --batch $small --steps $steps
if [[ $device == cuda* ]]; then
    bench "forward $small bf16" forward "${net[@]}" --batch $small --steps $steps --precision bf16
    for precision in f32 tf32 bf16; do
        peer "forward $small $precision channels_last" forward.py "${net[@]}" --batch $small --steps $steps --layout channels_last --precision $precision
    done
fi

# The same short pretraining on the GPU and on the CPU: losses at the same steps.
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
"$scrl" --quiet synth --out "$work/scenes" --set train=160 --set val=40 --set unlabelled=256 --set width=96 --set height=96 >> "$log" 2>&1
for place in cpu "$device"; do
    note "pretrain scenes $place" "$scrl" --quiet pretrain --config "$here/../configs/pretrain/scrl_demo.toml" --data "$work/scenes/unlabelled" \
        --out "$work/pretrain-${place//:/}" --set schedule.epochs=5 --set log.interval=1 --device "$place"
    cp "$work/pretrain-${place//:/}/metrics.jsonl" "$out/pretrain-${place//:/}.jsonl" 2>> "$log"
done
for place in cpu "$device"; do
    note "transfer scenes $place" "$scrl" --quiet transfer --config "$here/../configs/transfer/demo.toml" --data "$work/scenes" --init "$work/pretrain-cpu" \
        --out "$work/transfer-${place//:/}" --set iterations=60 --device "$place"
    cp "$work/transfer-${place//:/}/metrics.jsonl" "$out/transfer-${place//:/}.jsonl" 2>> "$log"
done

detector=(--arch resnet50 --batch 2 --width 1344 --height 800); [[ $device == cuda* ]] || detector=(--arch resnet18 --batch 1 --width 128 --height 96)
bench "detector" detector "${detector[@]}" --steps 5
if [[ $device == cuda* ]]; then
    bench "detector bf16" detector "${detector[@]}" --steps 5 --precision bf16
    for precision in tf32 bf16; do
        peer "detector $precision channels_last" detector_step.py "${detector[@]}" --steps 5 --layout channels_last --precision $precision
    done
    peer "step $small bf16 channels_last compiled" scrl_step.py "${net[@]}" --batch $small --steps $steps --layout channels_last --precision bf16 --compile
fi
bench "step $large" pretrain "${net[@]}" --batch $large --steps 5
if [[ $device == cuda* ]]; then
    bench "step $large bf16" pretrain "${net[@]}" --batch $large --steps 5 --precision bf16
    for precision in tf32 bf16; do
        peer "step $large $precision channels_last" scrl_step.py "${net[@]}" --batch $large --steps 5 --layout channels_last --precision $precision
    done
fi
