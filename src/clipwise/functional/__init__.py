"""Pure maths for every framework, in array namespace operations only."""
