"""Commands of `reelscan` that operate a deployment."""
