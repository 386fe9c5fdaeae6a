"""A row of a product has the same bits wherever it stands, on other processors too."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import besiege  # first, as MKL is asked before its first product
import torch

for count, size, classes in [(4, 48, 3), (8, 64, 10), (8, 1280, 1000), (50, 512, 10)]:
    generator = torch.Generator().manual_seed(count)
    w = torch.randn(classes, size, generator=generator)
    for _ in range(10):
        x = torch.rand(count, size, generator=generator)
        order = torch.randperm(count, generator=generator)
        whole = torch.nn.functional.linear(x, w)
        assert torch.equal(whole[order], torch.nn.functional.linear(x[order], w)), (count, size)
"""


@pytest.mark.parametrize("instructions", ["", "AVX2"])
def test_rows_do_not_see_their_place(instructions):
    environment = {k: v for k, v in os.environ.items() if k != "MKL_CBWR"}
    environment |= {"MKL_ENABLE_INSTRUCTIONS": instructions} if instructions else {}
    out = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, stderr=subprocess.PIPE)
    assert out.returncode == 0, out.stderr.decode()[-300:]
