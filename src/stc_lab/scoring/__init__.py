"""What an answer is worth: readings of texts, the benchmarks' official rules, published predictions as records."""
