# Both commands on a CPU, as on any machine:
#   docker build -t canonface .
#   docker run --rm -v "$PWD/runs:/canonface/runs" canonface              (make demo)
#   docker run --rm canonface make test
# For torch's CPU build, which is smaller by gigabytes, add --build-arg PIP_EXTRA_INDEX_URL=… (docs/dependencies.md).
# For a GPU: --build-arg EXTRAS=nvwarp, without that index (torch's default build brings CUDA along), and run it with --gpus all.
FROM python:3.11-slim-bookworm
# The libraries are those of scripts/system_libraries.sh.
RUN apt-get update \
    && apt-get install -y --no-install-recommends make libusb-1.0-0 libgl1 libegl1 \
    && rm -rf /var/lib/apt/lists/*
ARG PIP_EXTRA_INDEX_URL
ARG EXTRAS
ENV PIP_NO_CACHE_DIR=1 PATH=/canonface/.venv/bin:$PATH
WORKDIR /canonface
COPY . .
RUN make check-libraries dev
RUN if [ -n "$EXTRAS" ]; then pip install ".[$EXTRAS]"; fi
CMD ["make", "demo"]
