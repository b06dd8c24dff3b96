"""TAC: task-aware centres of class descriptions beside the learned prompts of both towers.

Hao et al., "Task-Aware Clustering for Prompting Vision-Language Models", CVPR 2025.
"""
