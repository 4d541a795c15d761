"""Micro-gesture classification with CLIP: the package behind the companion book.

Data flows one way: films + skeleton CSVs + labels → clips → (heat-maps on the device) → model → logits → ledger →
table → page.
"""

__version__ = "0.1.0"
