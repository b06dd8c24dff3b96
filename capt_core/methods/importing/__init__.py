"""Learned prompts that other programs saved, as fitted methods of this one."""
