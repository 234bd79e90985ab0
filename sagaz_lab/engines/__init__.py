"""Engines that execute runs."""
