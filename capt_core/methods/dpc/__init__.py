"""DPC: a tuned prompt beside the one it was cloned from (Li et al., CVPR 2025)."""
