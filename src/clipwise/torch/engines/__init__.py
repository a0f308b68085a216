"""The arithmetic behind `clipwise.torch`: norms, scaling, clamping. One engine a file, one set of names."""
