# The server with its environment and the default pipeline's models. Engines are measured where it
# runs, at the first start; keep /app/models on a volume so that they are measured once:
#   docker build -t paddleocr-hpi-serving .
#   docker run -p 8868:8868 -v ocr-models:/app/models paddleocr-hpi-serving
FROM python:3.12-slim

RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /app
COPY . .
RUN bash scripts/install_hpi_deps.sh cpu && bash scripts/fetch_models.sh && .venv/bin/ocr-hpi doctor

EXPOSE 8868
ENV OCR_HPI_HOST=0.0.0.0
ENTRYPOINT ["bash", "scripts/serve.sh"]
