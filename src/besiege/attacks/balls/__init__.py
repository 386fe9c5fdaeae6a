"""Balls: one file a norm."""
