"""The Hugging Face Hub: cards, publishing and its checks, provenance, and where a checkpoint comes from."""
