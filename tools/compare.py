"""Compare fusion necks: python tools/compare.py --help"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout works without being installed

from fusion_det.config.cli import main

if __name__ == "__main__":
    sys.exit(main("compare"))
