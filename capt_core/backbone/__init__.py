"""CLIP backbones: loading, encoding and the embedded tiny CLIP."""
