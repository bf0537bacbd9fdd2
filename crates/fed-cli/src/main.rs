//! The `fed` command.
fn main() {}
