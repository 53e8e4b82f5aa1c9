"""What a torch module computes: the digests of its tensors, and all its modules hold."""
