"""TAP: attribute sentences of classes, and a token of the image tower for each attribute.

Ding et al., "Tree of Attributes Prompt Learning for Vision-Language Models", ICLR 2025.
"""
