#!/usr/bin/env bash
# Qualifies the CUDA backend on the machine at hand with one command: correctness first, then speed.
#
#   bench/gpu/qualify.sh [--minutes N] [--device cuda|cuda:N|emulator] [--binary PATH] [--out DIR]
#
# Needs the release binary only. What else the machine has is used: python3 for the report, torch for the comparisons,
# compute-sanitizer and ncu for what they show. Each step has a time limit and writes its result at once, so that an
# interrupted run leaves what it had; a step that cannot run is recorded as "not run", with the reason.
# Afterwards `python3 bench/gpu/report.py DIR` makes bench/results/<device>-<date>.json and .md of it.
set -u
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
minutes=20 device=cuda binary="$root/target/release/handloom" out=""
while [ $# -gt 0 ]; do
    case $1 in
        --minutes) minutes=$2; shift 2 ;;
        --device) device=$2; shift 2 ;;
        --binary) binary=$2; shift 2 ;;
        --out) out=$2; shift 2 ;;
        -h | --help) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) echo "qualify: unknown option $1 (see --help)" >&2; exit 2 ;;
    esac
done
[ -x "$binary" ] || { echo "qualify: no release binary at $binary; build it with: cargo build --release" >&2; exit 2; }
out=${out:-"$root/runs/qualify-$(date +%Y%m%d-%H%M%S)"}
mkdir -p "$out"
started=$(date +%s)
deadline=$((started + minutes * 60))
steps="$out/steps.jsonl"
: > "$steps"
small=false
[ "$device" = emulator ] && small=true
python=$(command -v python3 || true)
has_torch=false
[ -n "$python" ] && [ $small = false ] && "$python" -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null && has_torch=true

note() { # name status seconds detail
    printf '{"step": "%s", "status": "%s", "seconds": %s, "detail": "%s"}\n' "$1" "$2" "$3" "$4" >> "$steps"
    printf '%-28s %-8s %5s s  %s\n' "$1" "$2" "$3" "$4"
}

# step NAME LIMIT_SECONDS COMMAND...: standard output to NAME.out, standard error to NAME.err.
step() {
    local name=$1 limit=$2 left begin status
    shift 2
    left=$((deadline - $(date +%s)))
    if [ "$left" -lt 5 ]; then note "$name" "not run" 0 "no time left of $minutes minutes"; return 1; fi
    [ "$left" -lt "$limit" ] && limit=$left
    begin=$(date +%s)
    timeout -k 5 "$limit" "$@" > "$out/$name.out" 2> "$out/$name.err"
    status=$?
    case $status in
        0) note "$name" ok $(($(date +%s) - begin)) "" ;;
        124 | 137) note "$name" timeout $(($(date +%s) - begin)) "limit $limit s" ;;
        *) note "$name" failed $(($(date +%s) - begin)) "exit $status, see $name.err" ;;
    esac
    return $status
}

skip() { note "$1" "not run" 0 "$2"; }

# 1. What this is.
step doctor 60 "$binary" doctor --json
if command -v nvidia-smi > /dev/null; then
    step nvidia_smi 30 nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit,temperature.gpu,memory.total --format=csv
else
    skip nvidia_smi "no nvidia-smi"
fi

# 2. Every op at every shape of the tests.
if $small; then
    step selftest 900 "$binary" selftest cast --device "$device" --json
else
    step selftest 300 "$binary" selftest --device "$device" --json
fi

# 3. Training agrees with the CPU and with PyTorch, in every precision, with and without the graph.
tiny="--set model.layers=2 --set model.width=64 --set model.heads=2 --set model.context=32 --set data.block=32
      --set train.batch=4 --set train.steps=5 --set train.eval_every=0 --set train.save_every=0 --set model.dropout=0.1
      --set data.max_valid_blocks=4"
# shellcheck disable=SC2086
train() { step "$1" 180 "$binary" train $tiny --out "$out/runs/$1" "${@:2}"; }
train train_cpu_fp32 --device cpu
for precision in fp32 tf32 bf16 fp16; do
    train "train_$precision" --device "$device" --precision $precision
done
train train_fp32_no_graph --device "$device" --no-cuda-graph

if [ -n "$python" ] && "$python" -c 'import torch' 2> /dev/null; then
    step torch_parity 180 "$python" "$here/torch_parity.py" --binary "$binary" --device "$device"
else
    skip torch_parity "no torch"
fi

# 4. compute-sanitizer on the same short run.
if ! $small && command -v compute-sanitizer > /dev/null; then
    for tool in memcheck racecheck initcheck synccheck; do
        # shellcheck disable=SC2086
        step "sanitizer_$tool" 120 compute-sanitizer --tool $tool --error-exitcode 9 \
            "$binary" train $tiny --device "$device" --precision bf16 --set train.steps=2 --out "$out/runs/sanitizer_$tool"
    done
else
    skip sanitizer "no compute-sanitizer, or an emulated device"
fi

# 5. Kernels beside torch (cuBLAS, flash SDPA) on the same shapes, one after the other.
bench() { # name op shape dtype
    step "bench_$1" 60 "$binary" bench op "$2" --shape "$3" --dtype "$4" --device "$device" --json
    if $has_torch; then
        step "torch_$1" 60 "$python" "$here/torch_ops.py" --op "$2" --shape "$3" --dtype "$4"
    fi
}
if $small; then
    step bench_layernorm 60 "$binary" bench op layernorm --shape 64x96 --dtype bf16 --device "$device" --runs 1 --json
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

# 6. Whole steps: GPT-2 124M and the textbook model, with torch beside them.
gpt2="--vocab 50304 --set model.layers=12 --set model.width=768 --set model.heads=12 --set model.context=1024 --set data.block=1024
      --set model.dropout=0"
if $small; then
    # shellcheck disable=SC2086
    step step_tiny 300 "$binary" bench train --device "$device" --precision bf16 --vocab 97 $tiny --steps 2 --warmup 3 --json
else
    for batch in 64 4; do
        # shellcheck disable=SC2086
        step "step_gpt2_b$batch" 120 "$binary" bench train --device "$device" --precision bf16 $gpt2 --set train.batch=$batch --json
        $has_torch && step "torch_gpt2_b$batch" 180 "$python" "$here/torch_step.py" --model gpt2 --batch $batch
    done
    step step_textbook 60 "$binary" bench train --device "$device" --precision bf16 --json
    step step_textbook_no_graph 60 "$binary" bench train --device "$device" --precision bf16 --no-cuda-graph --json
    $has_torch && step torch_textbook 180 "$python" "$here/torch_step.py" --model textbook --batch 16
fi
$has_torch || skip torch "no torch with CUDA, or an emulated device"

# 7. What the three slowest kernels of a step do.
if ! $small && command -v ncu > /dev/null; then
    # shellcheck disable=SC2086
    step ncu 180 ncu --set full --launch-skip 400 --launch-count 120 --csv --page raw \
        "$binary" bench train --device "$device" --precision bf16 --no-cuda-graph $gpt2 --set train.batch=4 --steps 1 --warmup 2
else
    skip ncu "no ncu, or an emulated device"
fi

if [ -n "$python" ]; then
    "$python" "$here/report.py" "$out"
else
    echo "no python3: make the report elsewhere with: python3 bench/gpu/report.py $out"
fi
failed=$(grep -cE '"status": "(failed|timeout)"' "$steps")
echo "$failed of $(grep -c . "$steps") steps failed; everything is in $out"
[ "$failed" -eq 0 ]
