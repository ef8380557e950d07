//! Parse the command line, run it, exit with its code.

fn main() {}
