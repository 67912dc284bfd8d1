"""Key-value stores: growing, evicting, and block memory with retrieval."""
