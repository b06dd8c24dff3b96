"""LwEIB: depth-wise convolutions in both towers, whose weights learn at full gradient.

Yang et al., "Learning with Enriched Inductive Biases for Vision-Language Models", IJCV 2025.
"""
