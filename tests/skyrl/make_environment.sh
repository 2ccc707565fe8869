#!/bin/sh
# The environment of `make test-skyrl`: SkyRL's training stack without CUDA, vLLM and flash-attn, on a CPU build of torch.
#
#   sh tests/skyrl/make_environment.sh FOLDER [SKYRL_VERSION]
#
# SkyRL needs Python 3.12 (pydantic refuses its TypedDicts before); on 3.11 a .pth file lends it those of
# typing_extensions. torch comes first, as its installation page says for a CPU.
set -e
folder=$1
version=${2:-0.4.0}
case $version in
0.3.*) transformers='transformers>=5.6.1,<=5.8.0' ;;
*) transformers='transformers>=5.9,<=5.16.1' ;;
esac
python=${PYTHON:-python3.11}
"$python" -m venv "$folder"
"$folder/bin/pip" install -q "${TORCH:-torch==2.13.0}"
"$folder/bin/pip" install -q --no-deps --ignore-requires-python "skyrl==$version" skyrl-gym
"$folder/bin/pip" install -q "$transformers" "peft==0.18.1" hf_transfer ray omegaconf loguru datasets jaxtyping \
    beartype aiohttp uvicorn wandb tensorboard torchdata func_timeout polars orjson zstandard xxhash pybase64 httpx \
    fastapi cloudpathlib pillow tensordict hydra-core tqdm hypothesis pytest pytest-timeout
"$folder/bin/pip" install -q -e .
packages=$("$folder/bin/python" -c "import sysconfig; print(sysconfig.get_paths()['purelib'])")
if "$folder/bin/python" -c "import sys; sys.exit(sys.version_info >= (3, 12))"; then
    echo 'import typing, typing_extensions; typing.TypedDict = typing_extensions.TypedDict' > "$packages/skyrl_typed_dict.pth"
fi
