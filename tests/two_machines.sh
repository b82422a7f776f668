#!/usr/bin/env bash
# Trains over a network: two processes of a binary built with `--features mpi`, each in a network namespace with a name and an address
# of its own, that reach each other by TCP only, as two machines do. The losses are compared with those of one process.
#
#   tests/two_machines.sh SCRL
#
# Needs root, Open MPI, ip and python3. Exit code 3: this machine makes no network namespaces.
set -euo pipefail
scrl=$(readlink -f "$1")
[ "$(id -u)" = 0 ] && ip netns add scrl-a 2> /dev/null || {
    echo "this machine makes no network namespaces (root and the ip command are needed)" >&2
    exit 3
}
work=$(mktemp -d)
cleanup() {
    ip netns del scrl-a 2> /dev/null || true
    ip netns del scrl-b 2> /dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
ip netns add scrl-b
ip link add scrl-va netns scrl-a type veth peer name scrl-vb netns scrl-b
for side in a:1 b:2; do
    name=${side%:*}; number=${side#*:}
    ip -n "scrl-$name" addr add "10.77.0.$number/24" dev "scrl-v$name"
    ip -n "scrl-$name" link set "scrl-v$name" up
    ip -n "scrl-$name" link set lo up
done
printf '127.0.0.1 localhost\n10.77.0.1 scrl-a\n10.77.0.2 scrl-b\n' > "$work/hosts"

# inside NAMESPACE COMMAND: a shell command there, under its own host name and with the addresses of both.
cat > "$work/inside" <<SH
#!/bin/sh
name=\$1; shift
exec ip netns exec "\$name" unshare --uts --mount sh -c "hostname \$name; mount --bind $work/hosts /etc/hosts; \$*"
SH
chmod +x "$work/inside"

cd "$work"
"$scrl" --quiet synth --out data --set train=8 --set val=4 --set unlabelled=16 --set class_images=2 --set width=64 --set height=64
cat > recipe.toml <<'TOML'
method = "scrl"
[model]
arch = "resnet18"
width = 0.125
[augment]
view_size = 48
[boxes]
count = 3
min_size = 8.0
[heads]
hidden = 16
output = 8
pool_level = "c4"
[schedule]
epochs = 2
batch_size = 8
base_lr = 0.001
[log]
interval = 1
TOML
train=("$scrl" --quiet pretrain --config "$work/recipe.toml" --data "$work/data/unlabelled")
"${train[@]}" --out "$work/one"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
# Shared memory is left out, so that everything goes over the wire.
timeout 300 "$work/inside" scrl-a mpirun -n 2 -H scrl-a:1,scrl-b:1 --bind-to none --mca plm_rsh_agent "$work/inside" \
    --mca pml ob1 --mca btl tcp,self --mca btl_tcp_if_include 10.77.0.0/24 --mca oob_tcp_if_include 10.77.0.0/24 \
    --mca mpi_yield_when_idle 1 "${train[*]}" --out "$work/two" --distributed
sent=$(ip -n scrl-a -s -j link show scrl-va | python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["stats64"]["tx"]["bytes"])')
python3 - "$work" "$sent" <<'PY'
import json, pathlib, sys
work, sent = pathlib.Path(sys.argv[1]), int(sys.argv[2])
def losses(run):
    events = map(json.loads, (work / run / "metrics.jsonl").read_text().splitlines())
    return [event["loss"] for event in events if event["kind"] == "train"]
one, two = losses("one"), losses("two")
assert len(one) == len(two) == 4, (one, two)
worst = max(abs(a - b) / abs(a) for a, b in zip(one, two))
# Sums are grouped by processes; four calm steps.
assert worst < 1e-4, f"losses differ by {worst:.1e}: {one} {two}"
assert sent > 400_000, f"only {sent} bytes went over the network"
print(f"two machines train as one: losses within {worst:.1e}, {sent / 1e6:.1f} MB sent by one of them")
PY
