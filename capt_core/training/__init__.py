"""Fitting the trainable part of a method on a frozen backbone."""
