"""Moe lottery: method, data, experiments, figures, evidence."""
