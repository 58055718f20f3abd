"""How does the time of a matrix product depend on the width of its result? Best of many, CPU time of one thread."""

import _common as common
import torch


def main() -> None:
    arguments = common.parse(__doc__)
    x, rows = torch.randn(256, 64), []
    for width in (1, 4, 8, 12, 16, 24, 30, 32, 40, 48, 60, 64):
        matrix, out = torch.randn(64, width), torch.empty(256, width)

        def many(matrix: torch.Tensor = matrix, out: torch.Tensor = out) -> None:
            for _ in range(500):
                torch.mm(x, matrix, out=out)

        best = min(common.cpu_seconds(many) for _ in range(7)) / 500
        rows.append({"width": width, "us": 1e6 * best, "GF/s": 2e-9 * 256 * 64 * width / best})
    common.save("widths", arguments, rows)


if __name__ == "__main__":
    main()
