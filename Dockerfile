# The server with its environment, models and graphs; nothing is fetched or converted when it runs.
#   docker build -t ocr-hpi .
#   docker build -t ocr-hpi:gpu --build-arg DEVICE=gpu --build-arg MODELS=configs/PP-OCRv6_small.yaml .
# MODELS: the pipelines whose models are inside; models/ of the checkout is used, the rest is fetched.
# How to run it: docs/deploy.md
ARG BASE=python:3.12-slim

FROM ${BASE} AS environment
ARG DEVICE=cpu
WORKDIR /app
COPY requirements requirements
RUN python3 -m venv .venv \
    && .venv/bin/pip install --no-cache-dir --require-hashes -r "requirements/$DEVICE.txt"

FROM environment AS build
ARG MODELS=configs/PP-OCRv4_mobile.yaml
ENV PATH=/app/.venv/bin:$PATH
WORKDIR /build
COPY . .
# What is published only as a Paddle graph is converted, in an environment that stays behind.
RUN pip install --no-cache-dir --no-deps --no-build-isolation . \
    && ocr-hpi fetch $MODELS \
    && if [ -n "$(ocr-hpi build --pending-conversions $MODELS)" ]; then \
         python3 -m venv .venv-build \
         && .venv-build/bin/pip install --no-cache-dir --require-hashes -r requirements/build.txt; \
       fi \
    && ocr-hpi bundle --no-wheels /tmp/models.tar $MODELS \
    && tar -xf /tmp/models.tar -C /app models \
    && pip uninstall --yes setuptools \
    && cd /app/.venv/lib/python3*/site-packages/openvino/libs \
    # Intel's GPUs and NPUs, and other forms of graphs: 70 MB, never used
    && rm -f libopenvino_intel_[gn]pu_plugin.so cache.json \
       libopenvino_jax_* libopenvino_paddle_* libopenvino_pytorch_* libopenvino_tensorflow_*

FROM ${BASE}
LABEL org.opencontainers.image.title="paddleocr-hpi-serving" \
      org.opencontainers.image.description="PP-OCR models over HTTP, on the engine measured fastest" \
      org.opencontainers.image.licenses="Apache-2.0"
# /data is of group 0, because that is the group of any other --user.
RUN apt-get update \
    && apt-get install -y --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
    && install -d -o 10001 -g 0 -m 0770 /data
COPY --from=build /app/.venv /app/.venv
COPY --from=build /app/models /app/models
COPY deploy/entrypoint.sh /app/
WORKDIR /app
ENV PATH=/app/.venv/bin:$PATH HOME=/data TMPDIR=/data/tmp PYTHONDONTWRITEBYTECODE=1 \
    OCR_HPI_HOST=0.0.0.0 OCR_HPI_PORT=8868 OCR_HPI_MODELS=/data/models OCR_HPI_SPOOL=/data/spool \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1
USER 10001:0
VOLUME /data
EXPOSE 8868
STOPSIGNAL SIGTERM
# The start period covers the measuring of a first start.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20m CMD ["python", "-c", \
    "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['OCR_HPI_PORT'] + '/health/ready')"]
ENTRYPOINT ["tini", "--", "/app/entrypoint.sh"]
