"""Micro-gesture classification with CLIP: the package behind the companion book.

Data flows one way: films + skeleton CSVs + labels → clips → (heat-maps on the device) → model → logits → ledger →
table → page.
"""

import warnings

__version__ = "0.1.0"

# tqdm's advice to install widgets: the bar under a notebook's cell (migcore.watch) needs none
warnings.filterwarnings("ignore", message="IProgress not found")
