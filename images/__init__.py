"""The container images: what builds them, measures them, and says what they ship."""
