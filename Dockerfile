# The image of `finetune`. docs/docker.md says how to build and run it; scripts/check-image proves it.
#
# BASE is a Debian image with Python >= 3.11, its venv module and its C headers. No CUDA image is needed:
# the torch wheels carry the CUDA libraries, the host's driver is mounted in by `docker run --gpus`.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}

# Triton compiles its kernels' launchers when training starts, so the compiler is part of the image.
# Unpinned: BASE decides which Debian release, and with it which gcc.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

# Anyone may write to these three, so that `docker run --user "$(id -u):$(id -g)"` works too.
RUN useradd --uid 1000 --create-home finetune \
    && install -d -m 1777 /home/finetune /cache /workspace \
    && python3 -m venv /opt/finetune
ENV PATH=/opt/finetune/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

# The dependencies, gigabytes of them, are a layer of their own that a change of our code leaves cached.
# EXTRAS names optional ones of pyproject.toml: `docker build --build-arg EXTRAS=ray`.
# The optional secret is a pip configuration (an index of your own, say) that must not stay in the image.
ARG EXTRAS=""
WORKDIR /src
COPY pyproject.toml constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    python -c 'import sys, tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
print(*project["dependencies"], *sum(map(project["optional-dependencies"].get, sys.argv[1].split()), []), sep="\n")' \
        "${EXTRAS}" > requirements.txt \
    && pip install --requirement requirements.txt --constraint constraints.txt

# No network from here on: setuptools, which builds the package, came with torch.
COPY README.md LICENSE ./
COPY finetune finetune
RUN pip install --no-cache-dir --no-deps --no-build-isolation .
COPY configs /workspace/configs

# HOME and USER hold for a user id without a name too; models, data sets and compiled kernels outlive the container.
ENV HOME=/home/finetune USER=finetune XDG_CACHE_HOME=/cache HF_HOME=/cache/huggingface TRITON_CACHE_DIR=/cache/triton
USER 1000:1000
WORKDIR /workspace
VOLUME ["/cache"]
# `docker stop` is Ctrl-C to the training: it ends with exit code 5 and can be resumed.
STOPSIGNAL SIGINT
ENTRYPOINT ["finetune"]
CMD ["--help"]
