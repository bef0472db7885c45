//! The program: arguments in, one command run, its exit status out.

fn main() {}
