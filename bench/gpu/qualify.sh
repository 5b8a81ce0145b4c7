#!/usr/bin/env bash
# Qualifies the CUDA backend on the machine at hand with one command: correctness first, then speed.
#
#   bench/gpu/qualify.sh [--minutes N] [--device cuda|cuda:N|emulator] [--binary PATH] [--out DIR]
#
# Needs the release binary only, and downloads nothing. What else the machine has is used: python3 for the report, torch for the
# comparisons, compute-sanitizer and ncu for what they show. Each step has a time limit and writes its result at once; an interrupted
# run still makes its report. A step that cannot run is recorded as "not run", with the reason. What costs little comes before what
# costs much, so that 15 minutes hold everything but, perhaps, the last sanitizers.
# The report, bench/results/<device>-<date>.json and .md, can be made elsewhere too: python3 bench/gpu/report.py DIR
set -u
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
minutes=15 device=cuda binary="$root/target/release/handloom" out=""
while [ $# -gt 0 ]; do
    case $1 in
        --minutes) minutes=$2; shift 2 ;;
        --device) device=$2; shift 2 ;;
        --binary) binary=$2; shift 2 ;;
        --out) out=$2; shift 2 ;;
        -h | --help) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) echo "qualify: unknown option $1 (see --help)" >&2; exit 2 ;;
    esac
done
[ -x "$binary" ] || { echo "qualify: no release binary at $binary; build it with: cargo build --release" >&2; exit 2; }
out=${out:-"$root/runs/qualify-$(date +%Y%m%d-%H%M%S)"}
[ ! -e "$out/steps.jsonl" ] || { echo "qualify: $out already holds a run; choose another --out" >&2; exit 2; }
mkdir -p "$out"
deadline=$(($(date +%s) + minutes * 60))
steps="$out/steps.jsonl"
: > "$steps"
small=false
[ "$device" = emulator ] && small=true
# Half a minute, at worst, for importing torch without using it.
python=$(command -v python3 || true)
torch=none
if [ -n "$python" ]; then
    torch=$(timeout 60 "$python" -c 'import torch; print("cuda" if torch.cuda.is_available() else "cpu")' 2> /dev/null || echo none)
fi
# On an emulated device torch's part is run on its CPU, for small sizes: to see that it runs.
$small && [ "$torch" != none ] && torch=cpu

note() { # name status seconds detail
    printf '{"step": "%s", "status": "%s", "seconds": %s, "detail": "%s"}\n' "$1" "$2" "$3" "$4" >> "$steps"
    printf '%-28s %-8s %5s s  %s\n' "$1" "$2" "$3" "$4"
}

# The last line of a file, without what JSON would have to escape.
last_line() { grep -v '^[[:space:]]*$' "$1" 2> /dev/null | tail -n 1 | tr -d '"\\' | tr '[:cntrl:]' ' ' | cut -c 1-200; }

# step NAME LIMIT_SECONDS COMMAND...: standard output to NAME.out, standard error to NAME.err.
step() {
    local name=$1 limit=$2 left begin status said
    shift 2
    left=$((deadline - $(date +%s)))
    if [ "$left" -lt 5 ]; then note "$name" "not run" 0 "no time left of $minutes minutes"; return 1; fi
    [ "$left" -lt "$limit" ] && limit=$left
    begin=$(date +%s)
    timeout -k 5 "$limit" "$@" > "$out/$name.out" 2> "$out/$name.err"
    status=$?
    said=$(last_line "$out/$name.err")
    [ -n "$said" ] || said=$(last_line "$out/$name.out")
    case $status in
        0) note "$name" ok $(($(date +%s) - begin)) "" ;;
        124 | 137) note "$name" timeout $(($(date +%s) - begin)) "limit $limit s" ;;
        *) note "$name" failed $(($(date +%s) - begin)) "exit $status: $said" ;;
    esac
    return $status
}

skip() { note "$1" "not run" 0 "$2"; }

finish() {
    trap - EXIT INT TERM
    if [ -n "$python" ]; then
        "$python" "$here/report.py" "$out"
    else
        echo "no python3: make the report elsewhere with: python3 bench/gpu/report.py $out"
    fi
    failed=$(grep -cE '"status": "(failed|timeout)"' "$steps")
    echo "$failed of $(grep -c . "$steps") steps failed; everything is in $out"
    [ "$failed" -eq 0 ]
    exit $?
}
trap finish EXIT
trap 'exit 130' INT TERM

# 1. What this is. Without the device there is nothing to do.
step doctor 60 "$binary" doctor --json
if ! $small && grep -q '"cuda":{"available":false' "$out/doctor.out"; then
    reason=$(sed 's/.*"cuda":{"available":false,"reason":"\([^"]*\)".*/\1/' "$out/doctor.out" | tr -d '"\\')
    note device failed 0 "$reason"
    exit 1
fi
if ! $small && sed 's/"emulator":.*//' "$out/doctor.out" | grep -q 'emulated'; then
    note device failed 0 "the libcuda.so in the library path is the emulated one; unset LD_LIBRARY_PATH, or say --device emulator"
    exit 1
fi
if ! $small && command -v nvidia-smi > /dev/null; then
    step nvidia_smi 30 nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit,temperature.gpu,memory.total --format=csv
else
    skip nvidia_smi "no nvidia-smi, or an emulated device"
fi

# Hopper's own kernels first: should they fail or hang, everything else is still measured, without them.
hopper=false
if ! $small && sed 's/"emulator":.*//' "$out/doctor.out" | grep -q '"compute_capability":"9.0"'; then
    if step selftest_hopper 60 "$binary" selftest matmul_tiles --dtype bf16 --device "$device" --json; then
        hopper=true
    else
        export HANDLOOM_KERNELS=sm_80
    fi
fi

# 2. Training agrees with the CPU in every precision, with and without the graph: seconds each. The first loads the kernels.
tiny="--set model.layers=2 --set model.width=64 --set model.heads=2 --set model.context=32 --set data.block=32
      --set train.batch=4 --set train.steps=5 --set train.eval_every=0 --set train.save_every=0 --set model.dropout=0.1
      --set data.max_valid_blocks=4"
# shellcheck disable=SC2086
train() { step "$1" 120 "$binary" train $tiny --out "$out/runs/$1" "${@:2}"; }
train train_cpu_fp32 --device cpu
for precision in fp32 tf32 bf16 fp16; do
    train "train_$precision" --device "$device" --precision $precision
done
train train_fp32_no_graph --device "$device" --no-cuda-graph

# The same model continues a text as on the CPU, past the end of its context.
generate() { step "$1" 60 "$binary" generate --model "$out/runs/train_cpu_fp32" --prompt Emma --greedy --max-new-tokens 40 --device "$2"; }
if generate generate_cpu cpu && generate generate "$device"; then
    if cmp -s "$out/generate_cpu.out" "$out/generate.out"; then
        note generate_agrees ok 0 ""
    else
        note generate_agrees failed 0 "generate.out and generate_cpu.out differ"
    fi
fi

# 3. Every op at every shape of the tests, and PyTorch's losses.
if $small; then
    step selftest 900 "$binary" selftest cast --device "$device" --json
else
    step selftest 240 "$binary" selftest --device "$device" --json
fi
if [ "$torch" != none ]; then
    limit=120
    $small && limit=600
    step torch_parity $limit "$python" "$here/torch_parity.py" --binary "$binary" --device "$device"
else
    skip torch_parity "no torch"
fi

# 4. Memory errors in a short run; the other sanitizers come last.
sanitize() { # tool
    # shellcheck disable=SC2086
    step "sanitizer_$1" 90 compute-sanitizer --tool "$1" --error-exitcode 9 \
        "$binary" train $tiny --device "$device" --precision bf16 --set train.steps=2 --out "$out/runs/sanitizer_$1"
}
sanitizer=false
! $small && command -v compute-sanitizer > /dev/null && sanitizer=true
if $sanitizer; then sanitize memcheck; else skip sanitizer "no compute-sanitizer, or an emulated device"; fi

# 5. Whole steps: GPT-2 124M and the textbook model.
gpt2="--vocab 50304 --set model.layers=12 --set model.width=768 --set model.heads=12 --set model.context=1024 --set data.block=1024
      --set model.dropout=0"
# shellcheck disable=SC2086
if $small; then
    step step_tiny 300 "$binary" bench train --device "$device" --precision bf16 --vocab 97 $tiny --steps 2 --warmup 3 --json
else
    step step_gpt2_b64 90 "$binary" bench train --device "$device" --precision bf16 $gpt2 --set train.batch=64 --json
    $hopper && HANDLOOM_KERNELS=sm_80 step step_gpt2_b64_sm_80 90 "$binary" bench train --device "$device" --precision bf16 $gpt2 \
        --set train.batch=64 --json
    step step_gpt2_b4 60 "$binary" bench train --device "$device" --precision bf16 $gpt2 --set train.batch=4 --json
    step step_textbook 60 "$binary" bench train --device "$device" --precision bf16 --json
    step step_textbook_no_graph 60 "$binary" bench train --device "$device" --precision bf16 --no-cuda-graph --json
    step step_textbook_bert 60 "$binary" bench train --device "$device" --precision bf16 --set model.kind=bert \
        --set objective.kind=mlm --json
    step generate_textbook 60 "$binary" bench generate --device "$device" --json
fi

# 6. Kernels beside torch (cuBLAS, flash SDPA) on the same shapes, one after the other.
bench() { # name op shape dtype
    step "bench_$1" 40 "$binary" bench op "$2" --shape "$3" --dtype "$4" --device "$device" --json "${@:5}"
    case $hopper-$2-$4 in
        true-linear_in_out_*-bf16 | true-matmul_nn-bf16)
            HANDLOOM_KERNELS=sm_80 step "bench_$1_sm_80" 40 "$binary" bench op "$2" --shape "$3" --dtype "$4" --device "$device" \
                --json "${@:5}" ;;
    esac
    [ "$torch" = none ] || step "torch_$1" 60 "$python" "$here/torch_ops.py" --op "$2" --shape "$3" --dtype "$4" --device "$torch"
}
if $small; then
    bench layernorm layernorm 64x96 bf16 --runs 1
else
    rows=16384 # 16 sequences of GPT-2's 1,024 tokens
    bench linear_qkv linear_in_out_bias "${rows}x2304x768" bf16
    bench linear_fc linear_in_out_gelu "${rows}x3072x768" bf16
    bench linear_fcproj linear_in_out_residual "${rows}x768x3072" bf16
    bench matmul_4096 matmul_nn 4096x4096x4096 bf16
    bench matmul_4096_f32 matmul_nn 4096x4096x4096 f32
    bench attention attention_packed 16x1024x1024x12x64 bf16
    bench layernorm layernorm "${rows}x768" bf16
    bench residual_layernorm residual_layernorm "${rows}x768" bf16
    bench gelu gelu_tanh 50331648 bf16
    bench softmax softmax "${rows}x1024" bf16
    bench cross_entropy cross_entropy 2048x50257 bf16
    bench linear_cross_entropy linear_cross_entropy "8192x50304x768" bf16
    bench embedding embedding "${rows}x50257x768" bf16
fi

# 7. The same steps in torch, compiled.
torch_step() { # name model batch
    step "torch_$1" 180 "$python" "$here/torch_step.py" --model "$2" --batch "$3" --device "$torch"
}
case $torch in
    none) skip torch "no torch" ;;
    cpu) torch_step tiny tiny 4 ;;
    *)
        torch_step gpt2_b64 gpt2 64
        torch_step gpt2_b4 gpt2 4
        torch_step textbook textbook 16
        ;;
esac

# 8. What the slowest kernels of a step do: the second step's kernels, a few counters each.
if ! $small && command -v ncu > /dev/null; then
    metrics=gpu__time_duration.sum,dram__throughput.avg.pct_of_peak_sustained_elapsed
    metrics=$metrics,sm__throughput.avg.pct_of_peak_sustained_elapsed,sm__warps_active.avg.pct_of_peak_sustained_active
    metrics=$metrics,launch__registers_per_thread
    # shellcheck disable=SC2086
    step ncu 120 ncu --metrics "$metrics" --launch-skip 400 --launch-count 250 --csv --page raw \
        "$binary" bench train --device "$device" --precision bf16 --no-cuda-graph $gpt2 --set train.batch=4 --steps 1 --warmup 2
else
    skip ncu "no ncu, or an emulated device"
fi

if $sanitizer; then
    for tool in racecheck synccheck initcheck; do sanitize $tool; done
fi
