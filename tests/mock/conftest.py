"""The mock is driven by the drivers of the contract suite, unchanged."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))
