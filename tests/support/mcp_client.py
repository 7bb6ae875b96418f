"""Run by the Python of .venv-mcp: asks each MCP server of a configuration to read a file.

`python mcp_client.py CONFIG FILE`; prints a JSON object: name of the server -> the text it answers.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from fastmcp import Client


async def main() -> None:
    answers = {}
    for name, server in json.loads(Path(sys.argv[1]).read_text())["mcpServers"].items():
        async with Client({"mcpServers": {name: server}}) as client:
            [tool] = await client.list_tools()
            asked = {"input_data": sys.argv[2], "output_mode": "detailed"}
            result = await client.call_tool(tool.name, asked)
            answers[name] = result.content[0].text
    print(json.dumps(answers))


asyncio.run(main())
