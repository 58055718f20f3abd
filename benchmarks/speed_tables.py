"""Write the tables of the benchmarks' results into README.md, between its markers, so that none is typed.

The marker of a file is its name; one of further rows in it ends with their key, as in ``tables.first_layer``.
"""

import json
import re
from pathlib import Path

import _common as common

README = Path(__file__).parent / "README.md"


def main() -> None:
    text = README.read_text(encoding="utf-8")
    for path in sorted(common.RESULTS.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        for key, rows in content.items():
            marker = f"<!-- {path.stem} -->" if key == "rows" else f"<!-- {path.stem}.{key} -->"
            if marker not in text:
                continue
            machine = content["machine"]
            head = f"`{machine['command']}`, {machine['date']}, {machine['processor']}, torch {machine['torch']}"
            head += f", GEMM {content['gemm_rate'] / 1e9:.0f} GF/s" if "gemm_rate" in content else ""
            block = f"{marker}\n\n{head}\n\n{common.table(rows)}\n\n<!-- end -->"
            text = re.sub(re.escape(marker) + r".*?<!-- end -->", lambda _, block=block: block, text, flags=re.S)
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
