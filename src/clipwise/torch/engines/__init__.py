"""The arithmetic behind `clipwise.torch`: measure norms, scale, clamp. One engine a file, the same functions in each."""
