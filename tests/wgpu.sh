#!/usr/bin/env bash
# Runs what a GPU computes on wgpu and compares it with the CPU, PyTorch and torchvision, at the tolerances of the CPU where nothing
# else is said: on this machine's GPU, or on Mesa's software Vulkan, which this installs where there is no Vulkan and it may. Exit
# code 3: no Vulkan.
#
#   tests/wgpu.sh [quick]
#
# `quick` leaves out ResNet-50, most variants of a pretraining step and the detections of R50-FPN: ten minutes instead of twenty on two
# cores of a software renderer, besides the build.
set -euo pipefail
cd "$(dirname "$0")/.."

found() { compgen -G "/usr/share/vulkan/icd.d/*.json" > /dev/null || compgen -G "/etc/vulkan/icd.d/*.json" > /dev/null; }
if ! found && command -v apt-get > /dev/null && [ "$(id -u)" = 0 ]; then
    apt-get update -qq > /dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
        mesa-vulkan-drivers libvulkan1 > /dev/null || true
fi
if ! found; then
    echo "There is no Vulkan driver. On Debian and Ubuntu: apt-get install mesa-vulkan-drivers libvulkan1" >&2
    exit 3
fi

export SCRL_TEST_DEVICE=wgpu
# Every new shape is tuned by trying kernels, which takes a software renderer long: few random cases.
export PROPTEST_CASES=${PROPTEST_CASES:-2} CUBECL_AUTOTUNE_LEVEL=minimal
# Mesa wants a place for its socket.
export XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/tmp}

# run TESTS... [-- FILTERS...]: tests of the workspace in a build with wgpu.
run() { cargo test --release --workspace --locked --features wgpu "$@"; }

run --test batch_norm --test max_pool --test update --test optimizer --test reads
run --test roi_align -- torchvision
if [ "${1:-}" = quick ]; then
    run --test resnet -- resnet18
    run --test parity -- ten_steps_of_byol a_head
    run --test detection -- box_head fpn::pyramids losses::the_box torchvisions_detections
else
    run --test resnet --test parity
    run --test detection -- fasterrcnn_resnet50_fpn::detections box_head fpn::pyramids losses::the_box torchvisions_detections reads
fi
run --test integration -- wgpu::
