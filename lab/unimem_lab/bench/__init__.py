"""`unimem bench`: every figure beside its yardstick, measured in the same run, and the ratio of the two.

Absolute values belong to a machine and a moment; ratios survive. `wanted` is what the project asks of itself:
a ratio, or the figure itself where there is no yardstick. Each group of figures is a module of this package.
"""

from unimem_lab.bench.runner import run_bench

__all__ = ["run_bench"]
