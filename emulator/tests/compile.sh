#!/bin/sh
# Compiles tests/cuda/*.cu to tests/ptx/*.ptx with nvcc 13.0, and has ptxas accept the result.
#   pip install 'nvidia-cuda-nvcc==13.0.*' 'nvidia-nvvm==13.0.*' 'nvidia-cuda-crt==13.0.*' \
#               'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-cccl==13.0.*'
#   CUDA=.../site-packages/nvidia/cu13 sh emulator/tests/compile.sh
# -fmad=false: the PTX then pins every rounding. Paths in .file are cut to names: the PTX must not depend on the machine.
set -eu
cd "$(dirname "$0")"
for source in cuda/*.cu; do
    name=$(basename "$source" .cu)
    arch=80
    case $name in hopper*) arch=90a ;; esac
    "$CUDA/bin/nvcc" -ptx -O3 -std=c++17 -lineinfo -fmad=false -arch=compute_$arch "$source" -o "ptx/$name.ptx"
    "$CUDA/bin/ptxas" -arch=sm_$arch "ptx/$name.ptx" -o /dev/null
    sed -i -E 's#^([[:space:]]*\.file[[:space:]]+[0-9]+ )".*/([^/"]+)"#\1"\2"#' "ptx/$name.ptx"
done
