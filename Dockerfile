# The server with its environment and the default pipeline's models. Engines are measured on the machine
# that runs it, at the first start; keep /app/models on a volume, so that this happens once:
#   docker build -t paddleocr-hpi-serving .
#   docker run -p 8868:8868 -v ocr-models:/app/models paddleocr-hpi-serving
# On an NVIDIA GPU, whose host needs the driver (580 or newer) and the NVIDIA Container Toolkit. CUDA and
# cuDNN come as wheels, so the base image is the same:
#   docker build --build-arg DEVICE=gpu -t paddleocr-hpi-serving:gpu .
#   docker run --gpus all -p 8868:8868 -v ocr-models:/app/models paddleocr-hpi-serving:gpu
FROM python:3.12-slim

ARG DEVICE=cpu
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /app
COPY . .
RUN bash scripts/install_hpi_deps.sh "$DEVICE" && bash scripts/fetch_models.sh

EXPOSE 8868
ENV OCR_HPI_HOST=0.0.0.0
# The parts of the driver that the container gets: compute for CUDA, utility for NVML.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENTRYPOINT ["bash", "scripts/serve.sh"]
