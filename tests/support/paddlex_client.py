"""The client of PaddleX's documentation for basic serving, then PaddleX's own schema on the answer.

Runs where PaddleX is: paddlex_client.py URL FOLDER FILE... (fileType 0 for a PDF, else 1).
"""

import base64
import sys
from pathlib import Path

import paddlex.utils.deps
import requests

# Its schemas need no more than pydantic, though its serving plugin needs much more.
paddlex.utils.deps.require_serving_plugin = lambda *_, **__: None

from paddlex.inference.serving.infra.models import AIStudioResultResponse  # noqa: E402
from paddlex.inference.serving.schemas.ocr import InferRequest, InferResult  # noqa: E402

API_URL, folder = sys.argv[1], Path(sys.argv[2])

for file_path in sys.argv[3:]:
    with open(file_path, "rb") as file:  # noqa: PTH123
        file_bytes = file.read()
        file_data = base64.b64encode(file_bytes).decode("ascii")

    payload = {"file": file_data, "fileType": 0 if file_path.endswith(".pdf") else 1}
    InferRequest.model_validate(payload)

    response = requests.post(API_URL, json=payload)

    assert response.status_code == 200, response.text
    result = response.json()["result"]
    for i, res in enumerate(result["ocrResults"]):
        print(res["prunedResult"]["rec_texts"])
        ocr_img_path = folder / f"{Path(file_path).name}_{i}.jpg"
        with open(ocr_img_path, "wb") as f:  # noqa: PTH123
            f.write(base64.b64decode(res["ocrImage"]))

    AIStudioResultResponse[InferResult].model_validate(response.json())
